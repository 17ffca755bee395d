"""What it costs to send a request to a worker. Lower is better; costs of one pool compare with each other only."""

from dataclasses import dataclass
from typing import NamedTuple

from router.worker_state import WorkerState


class Cost(NamedTuple):
    """The terms of one worker's cost.

    Attributes:
        own: what the request itself adds there.
        queue: what stands before it.
    """

    own: float
    queue: float

    @property
    def total(self) -> float:
        """What workers are compared by."""
        return self.own + self.queue


@dataclass(frozen=True)
class PrefillCost:
    """Seconds of prefill: of this prompt's uncached tokens, and, discounted, of what is queued before it.

    Waiting is discounted because a prompt that is computed where it is not held costs more than its own time: it delays
    whatever comes next to that worker and evicts blocks there. Beyond a budget the queue costs more, the next worker is
    chosen, and a hot prefix spreads to it. The weights are fitted to a trace, see docs/routing.md.

    Attributes:
        wait_weight: of a second in the queue.
        budget_s: length of queue up to which a worker is not over budget.
        over_budget_weight: of a second in the queue beyond the budget, on top of `wait_weight`.
    """

    wait_weight: float = 0.18
    budget_s: float = 6.0
    over_budget_weight: float = 0.3

    def __call__(self, worker: WorkerState, num_tokens: int, held_tokens: float, now_s: float) -> Cost:
        """The cost of a prompt of which the worker holds so much. At least one token is always computed."""
        queue_s = worker.queue_s(now_s)
        queue = self.wait_weight * queue_s
        if queue_s > self.budget_s:
            queue += self.over_budget_weight * (queue_s - self.budget_s)
        return Cost(max(num_tokens - held_tokens, 1.0) / worker.tokens_per_s, queue)


@dataclass(frozen=True)
class DecodeCost:
    """KV blocks: those the request brings along, those of the requests that run there, those that are missing.

    What other routers have sent is counted as requests like this one: a worker reports how many it runs, not whose.

    Attributes:
        block_size: tokens per block.
        overlap_weight: what a block that is held already saves: it need not be stored again, but is none the faster to
            decode from.
        shortage_weight: of a block that is not free: somebody is preempted and computed again.
    """

    block_size: int
    overlap_weight: float = 0.25
    shortage_weight: float = 4.0

    def __call__(self, worker: WorkerState, num_tokens: int, held_tokens: float, now_s: float) -> Cost:
        """The cost of a sequence of which the worker holds so much."""
        needed = (num_tokens - self.overlap_weight * held_tokens) / self.block_size
        free = worker.free_blocks()
        shortage = 0.0 if free is None else max(0.0, (num_tokens - held_tokens) / self.block_size - free)
        foreign = worker.foreign_requests * num_tokens / self.block_size
        return Cost(needed + self.shortage_weight * shortage, worker.reserved_blocks + foreign)


CostModel = PrefillCost | DecodeCost
