"""What a router knows of one worker: what it has sent there, what the worker reports, how far both can be trusted."""

from dataclasses import dataclass

from router.reservation import Reservation

DEFAULT_TOKENS_PER_S = 8000.0  # until any worker reports what it measures; then only ratios matter
HALF_LIFE_S = 300.0
TRUST_MEMORY = 0.9  # of one prediction, in the running mean of how true they come


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself, about once a second.

    Attributes:
        queued_tokens: prompt tokens that it has taken in and not computed, from all routers.
        tokens_per_s: prompt tokens it computes in a second of prefill; 0 where it has measured nothing.
        free_blocks: KV blocks that are free or can be evicted at once.
        num_running: sequences that have blocks.
    """

    queued_tokens: int = 0
    tokens_per_s: float = 0.0
    free_blocks: int = 0
    num_running: int = 0


class WorkerState:
    """One worker. Times are in seconds of one clock that does not jump.

    What the router has sent is charged until it is settled. A report adds what others have sent: what the worker had
    queued beyond our own charges, worked off at the worker's speed since.
    """

    __slots__ = (
        "_charged_s",
        "_charged_tokens",
        "_foreign_tokens",
        "_free_blocks",
        "_head_since_s",
        "_reported_s",
        "_reserved_at_report",
        "charges",
        "foreign_requests",
        "reserved_blocks",
        "reserved_tokens",
        "tokens_per_s",
        "trust",
    )

    def __init__(self, tokens_per_s: float = DEFAULT_TOKENS_PER_S) -> None:
        self.tokens_per_s = tokens_per_s
        self.trust = 1.0
        self.charges: dict[str, Reservation] = {}  # oldest first, which is the order of the worker's queue
        self.reserved_tokens = 0
        self.reserved_blocks = 0
        self._charged_tokens = 0.0
        self._charged_s = 0.0
        self._head_since_s = 0.0
        self._foreign_tokens = 0.0
        self._reported_s = 0.0
        self._free_blocks: int | None = None
        self._reserved_at_report = 0
        self.foreign_requests = 0  # of other routers

    def charge(self, reservation: Reservation, now_s: float) -> None:
        """Count a request among what the worker has to do."""
        if not self.charges:
            self._head_since_s = now_s
        self.charges[reservation.request_id] = reservation
        self._charged_tokens = self.charged_lately(now_s) + reservation.num_tokens
        self._charged_s = now_s
        self.reserved_tokens += reservation.num_tokens
        self.reserved_blocks += reservation.num_blocks

    def settle(self, request_id: str, now_s: float) -> None:
        """Count it no more. The request after the head is begun when the head is done."""
        reservation = self.charges.pop(request_id)
        self.reserved_tokens -= reservation.num_tokens
        self.reserved_blocks -= reservation.num_blocks
        self._head_since_s = now_s

    def take_report(self, report: WorkerReport, now_s: float) -> None:
        """Believe a report from now on."""
        if report.tokens_per_s > 0:
            self.tokens_per_s = report.tokens_per_s
        self._foreign_tokens = max(0.0, report.queued_tokens - self._own_tokens(now_s))
        self._reported_s = now_s
        self._free_blocks = report.free_blocks
        self._reserved_at_report = self.reserved_blocks
        self.foreign_requests = max(0, report.num_running - len(self.charges))

    def queue_s(self, now_s: float) -> float:
        """Seconds until the worker could begin with another prompt."""
        foreign = 0.0
        if self._foreign_tokens:
            foreign = max(0.0, self._foreign_tokens - (now_s - self._reported_s) * self.tokens_per_s)
        return (self._own_tokens(now_s) + foreign) / self.tokens_per_s

    def charged_lately(self, now_s: float) -> float:
        """All tokens that were ever charged, half of them forgotten every `HALF_LIFE_S`."""
        return float(self._charged_tokens * 0.5 ** ((now_s - self._charged_s) / HALF_LIFE_S))

    def free_blocks(self) -> int | None:
        """Blocks left for new requests; None where the worker has not said how many it has."""
        if self._free_blocks is None:
            return None
        return self._free_blocks + self._reserved_at_report - self.reserved_blocks

    def learn(self, predicted_tokens: int, actual_tokens: int) -> None:
        """Trust what the index says of the worker as far as it has come true: a mean over its last predictions."""
        truth = min(actual_tokens / predicted_tokens, 1.0) if predicted_tokens else 1.0
        self.trust = TRUST_MEMORY * self.trust + (1 - TRUST_MEMORY) * truth

    def _own_tokens(self, now_s: float) -> float:
        """Charged and not computed: the head of the queue is being worked on since the one before it was settled."""
        if not self.reserved_tokens:
            return 0.0
        head = next(iter(self.charges.values())).num_tokens
        done = (now_s - self._head_since_s) * self.tokens_per_s
        return self.reserved_tokens - (done if done < head else head)
