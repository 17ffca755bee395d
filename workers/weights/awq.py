"""AWQ's int4 checkpoints (Lin et al. 2023, arXiv 2306.00978) as AutoAWQ writes them for its GEMM kernel.

A module of N outputs and K inputs in groups of g:
    qweight  int32 [K, N / 8]      output 8i + ORDER[j] in bits 4j to 4j + 3 of word [k, i]
    qzeros   int32 [K / g, N / 8]  likewise, zero points as they are
    scales   float [K / g, N]
"""

from dataclasses import dataclass

import torch

from kernels.int4 import PackedInt4, pack_nibbles, swap_nibbles, unpack_nibbles
from workers.model_error import ModelError
from workers.models.config_fields import ConfigFields, shown
from workers.weights.checkpoint import Checkpoint
from workers.weights.gptq import read_group_size
from workers.weights.quantized_checkpoint import bytes_of, check_groups, read_scales

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class AwqLayout:
    """`workers.weights.quantized_checkpoint.Layout`; a `group_size` of -1 is one group of all inputs."""

    group_size: int
    marker = "qweight"
    required = ("qzeros", "scales")
    parts = ("qweight", "qzeros", "scales")

    @classmethod
    def from_config(cls, config: ConfigFields) -> "AwqLayout":
        """Raises ValueError for a scheme that is not served."""
        if config.any("bits") != 4:
            raise ValueError(f"awq's bits is {shown(config.any('bits'))}; only 4 are served")
        version = config.any("version") or "gemm"
        if not isinstance(version, str) or version.lower() != "gemm":
            raise ValueError(f"awq's version is {shown(version)}; only 'gemm' is served, save the model in it")
        if not config.flag("zero_point", True):
            raise ValueError("awq's zero_point is false; only the scheme with zero points is served")
        return cls(read_group_size(config))

    def read(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> PackedInt4:
        """The matrix. Raises ModelError where a part is wrong."""
        num_outputs, num_inputs = shape
        group_size = num_inputs if self.group_size == -1 else self.group_size
        check_groups(module, num_inputs, group_size)
        if num_outputs % 8:
            raise ModelError(f"{module} has {num_outputs} outputs; awq packs multiples of 8 only")
        groups = num_inputs // group_size
        values = read_words(checkpoint, f"{module}.qweight", (num_inputs, num_outputs))
        zeros = read_words(checkpoint, f"{module}.qzeros", (groups, num_outputs))
        scales = read_scales(checkpoint, f"{module}.scales", (groups, num_outputs))
        return PackedInt4(pack_nibbles(values.T), scales.T.contiguous(), zeros.T.contiguous(), group_size)


def read_words(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> torch.Tensor:
    """Integers uint8 [rows, N] in their natural order."""
    words = checkpoint.read_as_stored(name, (shape[0], shape[1] // 8), torch.int32)
    stored = unpack_nibbles(swap_nibbles(bytes_of(words))).view(shape[0], -1, 8)
    values = torch.empty_like(stored)
    values[..., list(ORDER)] = stored
    return values.view(shape)
