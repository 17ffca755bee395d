"""What is timed, and compiled, of a kernel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

Launch = Callable[[], object]


@dataclass(frozen=True)
class KernelCase:
    """One operation at one size.

    Attributes:
        name: the operation, then what distinguishes the case: "int4_linear 4096x4096 g128 M=16".
        make: makes random inputs on a device and returns what launches the operation on them; called several times, so
            that a timed run does not find its inputs in the cache.
        num_bytes: what has to be read and written at the least.
        num_flops: multiplications and additions.
        baselines: the same by others, by name: made and timed in the same way.
    """

    name: str
    make: Callable[[torch.device], Launch]
    num_bytes: int
    num_flops: int
    baselines: Mapping[str, Callable[[torch.device], Launch]] = field(default_factory=dict)
