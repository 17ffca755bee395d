"""What a worker tells the routers of its load."""

from collections import deque
from dataclasses import dataclass

REMEMBERED_PREFILLS = 256  # between two reports, which come about once a second
MEMORY_S = 10.0  # of computing, over which the speed is averaged


@dataclass(frozen=True)
class WorkerLoad:
    """A worker's load at one moment.

    Attributes:
        queued_tokens: prompt tokens taken in and not computed, less what the prefix cache holds of them.
        tokens_per_s: prompt tokens computed in a second of prefill; 0 before the first.
        free_blocks: KV blocks that are free or can be evicted at once.
        num_running: sequences that have blocks.
        prefills: of the last prompts, request id and how many leading tokens the prefix cache held.
        num_blocks: KV blocks in all.
        num_waiting: sequences that have no blocks yet, or lost them.
    """

    queued_tokens: int = 0
    tokens_per_s: float = 0.0
    free_blocks: int = 0
    num_running: int = 0
    prefills: tuple[tuple[str, int], ...] = ()
    num_blocks: int = 0
    num_waiting: int = 0

    @property
    def kv_usage(self) -> float:
        """The part of the KV blocks that requests hold."""
        return 1 - self.free_blocks / self.num_blocks if self.num_blocks else 0.0


class PrefillMeter:
    """Measures how fast prompts are computed, and remembers what their predictions are to be held against."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._prefills: deque[tuple[str, int]] = deque(maxlen=REMEMBERED_PREFILLS)

    @property
    def tokens_per_s(self) -> float:
        """Tokens in a second of computing, of late."""
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def prefills(self) -> tuple[tuple[str, int], ...]:
        """The last prompts, oldest first."""
        return tuple(self._prefills)

    def add_step(self, num_tokens: int, seconds: float) -> None:
        """A step computed so many tokens."""
        kept = max(0.0, 1.0 - seconds / MEMORY_S)
        self._tokens = self._tokens * kept + num_tokens
        self._seconds = self._seconds * kept + seconds

    def add_prefill(self, request_id: str, num_cached_tokens: int) -> None:
        """A prompt is done."""
        self._prefills.append((request_id, num_cached_tokens))
