"""The router of one pool. Synchronous and pure: requests, reports and the time in, workers out."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from radix.hot_prefixes import HotPrefix, HotPrefixes
from radix.prefix_index import PrefixIndex
from router.cost import CostModel
from router.expected import ExpectedPrefixes
from router.explanation import Explanation, ExplanationLog, Reason
from router.policies import Policy
from router.pool import Pool
from router.request import RoutingRequest
from router.reservation import Reservation
from router.worker_state import WorkerReport
from router.worker_table import WorkerTable

SUSPECT_S = 2.5  # without a sign of life, which come every half second
RANKED = 4  # choices a decision names; whoever asks may try all others after them


@dataclass
class PredictionCounts:
    """Prompt tokens that workers were believed to hold against those they held, summed over requests.

    Attributes:
        num_requests: answered, so that prediction and truth could be compared.
        lost_tokens: held by a worker that was not chosen, beyond what the chosen one held.
    """

    num_requests: int = 0
    predicted_tokens: int = 0
    actual_tokens: int = 0
    overpredicted_tokens: int = 0
    underpredicted_tokens: int = 0
    lost_tokens: int = 0


class Router:
    """Chooses workers and charges them. An index that is empty, stale or wrong costs time and is never an error.

    Times are in seconds of one clock that does not jump.

    Args:
        index: kept up to date by the caller from the workers' events.
        expected: what has been sent and not shown in events yet.
        policy: how to choose; see `router.policies`.
        cost: what the pool's workers are compared by.
        block_size: tokens per block of the index.
        rng: breaks ties and samples.
        age_of: seconds since a worker's events last said that the index is right about it.

    Attributes:
        num_decisions: requests that were placed, by what the first choice came down to.
    """

    def __init__(
        self,
        index: PrefixIndex,
        expected: ExpectedPrefixes,
        policy: Policy,
        cost: CostModel,
        block_size: int,
        rng: random.Random,
        age_of: Callable[[str], float] = lambda worker: 0.0,
    ) -> None:
        self._expected = expected
        self._policy = policy
        self._block_size = block_size
        self.table = WorkerTable()
        self._pool = Pool(index, expected, self.table, cost, block_size, rng, age_of)
        self.explanations = ExplanationLog()
        self.counts = PredictionCounts()
        self.num_decisions = dict.fromkeys(Reason, 0)
        self._hot = HotPrefixes()

    def set_workers(self, names: Iterable[str]) -> None:
        """The pool has exactly these workers from now on."""
        self.table.set_workers(names)

    def take_report(self, worker: str, report: WorkerReport, now_s: float) -> None:
        """Believe what a worker says of its own load."""
        self.table.take_report(worker, report, now_s)

    def choose(self, request: RoutingRequest, now_s: float) -> Sequence[str]:
        """The best workers, best first, the first of them charged. Empty where the pool has none.

        Called again for the same request (it was refused), the charge goes where the new choice falls.
        """
        self.table.settle(request.request_id, now_s)
        explanation = self.explain(request, now_s)
        if not explanation.candidates:
            return ()
        explanation.worker = explanation.candidates[0].worker
        if self.explanations.get(request.request_id) is None:  # else it was refused where it was sent
            self.num_decisions[explanation.reason] += 1
        self.explanations.add(explanation)
        self._charge(request, explanation, now_s)
        return [candidate.worker for candidate in explanation.candidates[:RANKED]]

    def explain(self, request: RoutingRequest, now_s: float) -> Explanation:
        """How the request would be decided now. Charges and remembers nothing.

        Workers that have fallen silent, and those that an earlier attempt was lost with, come last in every policy.
        """
        candidates = self._policy(request, self._pool, now_s)
        lost = {self.worker_of(attempt) for attempt in request.lost}
        ranked = sorted(candidates, key=lambda candidate: candidate.worker in lost or candidate.age_s > SUSPECT_S)
        return Explanation(request.request_id, request.num_tokens, ranked, request.block_hashes)

    def worker_of(self, request_id: str) -> str | None:
        """Where one of the last requests was sent; None where it was not, or is not remembered."""
        explanation = self.explanations.get(request_id)
        return explanation.worker if explanation else None

    def place(self, request: RoutingRequest, worker: str, now_s: float) -> None:
        """The request went to this worker, which need not be the first choice."""
        if self.table.worker_of(request.request_id) in (None, worker):
            return
        explanation = self.explanations.get(request.request_id)
        if explanation is None or worker not in self.table.states:
            self.table.settle(request.request_id, now_s)
            return
        explanation.worker = worker
        self._charge(request, explanation, now_s)

    def settle(self, request_id: str, now_s: float, worker: str | None = None) -> None:
        """The request's call ended, however it ended; with `worker`, the call to that worker did."""
        self.table.settle(request_id, now_s, worker)

    def hottest(self, limit: int) -> list[HotPrefix]:
        """The prefixes that workers found in their caches most often, of this router's requests."""
        return self._hot.hottest(self._expected.root, limit)

    def observe(self, request_id: str, actual_tokens: int, now_s: float) -> None:
        """A worker found so many leading tokens of a prompt in its cache. Counted once; unknown requests are ignored:
        other routers' requests are reported here too."""
        explanation = self.explanations.get(request_id)
        if explanation is None or explanation.actual_tokens is not None:
            return
        explanation.actual_tokens = actual_tokens
        self._hot.hit(self._expected.root, explanation.block_hashes, actual_tokens // self._block_size, now_s)
        predicted = explanation.predicted_tokens
        self._count(predicted, actual_tokens, explanation.lost_tokens)
        state = self.table.states.get(explanation.worker or "")
        if state is not None:
            state.learn(predicted, actual_tokens)

    def _charge(self, request: RoutingRequest, explanation: Explanation, now_s: float) -> None:
        """Charge what the worker has to compute, and expect it to hold the prompt from then on."""
        worker = explanation.worker or ""
        credited = max((c.credited_tokens for c in explanation.candidates if c.worker == worker), default=0.0)
        uncached = max(request.num_tokens - int(credited), 1)
        blocks = -(-request.num_tokens // self._block_size)
        self.table.charge(worker, Reservation(request.request_id, uncached, blocks), now_s)
        self._expected.insert(worker, request.block_hashes, now_s)

    def _count(self, predicted: int, actual: int, lost: int) -> None:
        counts = self.counts
        counts.num_requests += 1
        counts.predicted_tokens += predicted
        counts.actual_tokens += actual
        counts.overpredicted_tokens += max(predicted - actual, 0)
        counts.underpredicted_tokens += max(actual - predicted, 0)
        counts.lost_tokens += lost
