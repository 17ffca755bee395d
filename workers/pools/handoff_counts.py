"""What a decode worker has fetched from prefill workers, in plain numbers, for whoever exports them."""

from collections import deque
from dataclasses import dataclass, field

REMEMBERED_TIMES = 4096  # where nobody takes them


@dataclass
class HandoffCounts:
    """What was fetched since the counts were last taken.

    Attributes:
        num_bytes: of KV that arrived, whole hand-offs or not.
        seconds: that each hand-off took of which blocks were fetched, and all of them arrived.
    """

    num_bytes: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED_TIMES))
