"""A discrete-event simulation of a prefill pool around the real router, index and caches. Only compute is simulated."""

import heapq
import itertools
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from radix.block_hash import TOKEN_BYTES
from radix.events import BlocksRemoved, CacheEvent
from radix.prefix_cache import PrefixCache
from radix.prefix_index import PrefixIndex
from router.cost import PrefillCost
from router.expected import ExpectedPrefixes
from router.policies import PolicyName, make_policy
from router.request import RoutingRequest
from router.router import Router
from router.worker_state import WorkerReport

BLOCK_SIZE = 512
TOKENS_PER_S = 8000.0
EVENT_DELAY_S = 0.05  # from a change of a cache to the index that hears of it
SETTLE_DELAY_S = 0.005  # from the end of a prefill to the router that charged it
REPORT_PERIOD_S = 1.0
ROOT = 0


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A request of a trace."""

    arrival_s: float
    num_tokens: int
    hash_ids: tuple[int, ...]

    @property
    def hashes(self) -> list[int]:
        """Its blocks as hashes. 0 is the root's."""
        return [block + 1 for block in self.hash_ids]

    @property
    def tokens(self) -> bytes:
        """One token for each block, as int32."""
        return array("i", self.hash_ids).tobytes()


@dataclass(slots=True)
class ReplayResult:
    """What came of a replay.

    Attributes:
        hit_blocks: blocks of all requests that were found in the cache of the worker they went to.
        waits_s: time to first token of every request.
        computed_tokens: by worker.
        decisions_s: time of the processor that the router took for each request, without hashing.
    """

    num_blocks: int = 0
    hit_blocks: int = 0
    waits_s: list[float] = field(default_factory=list)
    computed_tokens: dict[str, int] = field(default_factory=dict)
    decisions_s: list[float] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        """Of blocks."""
        return self.hit_blocks / self.num_blocks

    @property
    def worst_share(self) -> float:
        """Tokens computed by the busiest worker against the mean of all."""
        return max(self.computed_tokens.values()) * len(self.computed_tokens) / sum(self.computed_tokens.values())

    def ttft_s(self, quantile: float) -> float:
        """Time to first token."""
        return sorted(self.waits_s)[int(quantile * len(self.waits_s))]

    def decision_us(self, quantile: float) -> float:
        """Of a decision."""
        return sorted(self.decisions_s)[int(quantile * len(self.decisions_s))] * 1e6


class SimulatedWorker:
    """A prefill worker: one prompt at a time, first come first served, a real prefix cache.

    The cache compares one token a block, its id: a block of the trace has no others.
    """

    def __init__(self, num_blocks: int) -> None:
        self.queue: deque[tuple[int, TraceRow]] = deque()
        self.busy_until_s = 0.0
        self._cache = PrefixCache(1, ROOT)
        self._free = num_blocks

    def remaining_s(self, now_s: float) -> float:
        """Until it is through with the prompt it computes."""
        return max(0.0, self.busy_until_s - now_s)

    def queued_tokens(self, now_s: float) -> int:
        """Prompt tokens that it has taken in and will have to compute, as far as its cache can tell."""
        waiting = sum(row.num_tokens - BLOCK_SIZE * self._num_held(row) for _, row in self.queue)
        return waiting + int(self.remaining_s(now_s) * TOKENS_PER_S)

    def admit(self, row: TraceRow) -> int:
        """Match a prompt, make room for the rest and cache it. Returns how many of its blocks were held."""
        hashes, tokens = row.hashes, row.tokens
        match = self._cache.match(hashes, tokens)
        num_held = len(match.hashes)
        lease = self._cache.acquire(match)
        needed = len(hashes) - num_held
        if needed > self._free:
            self._free += len(self._cache.evict(needed - self._free))
        end = num_held + min(needed, self._free)
        self._free -= end - num_held
        if end > num_held:
            fresh = tokens[num_held * TOKEN_BYTES : end * TOKEN_BYTES]
            lease, _ = self._cache.extend(lease, hashes[num_held:end], list(range(num_held, end)), fresh)
        self._cache.release(lease)
        return num_held

    def _num_held(self, row: TraceRow) -> int:
        return len(self._cache.match(row.hashes, row.tokens).hashes)

    def take_events(self) -> tuple[list[CacheEvent], list[CacheEvent]]:
        """What was evicted and what was stored since the last call. Eviction comes first, to make room."""
        events = self._cache.take_events()
        evicted: list[CacheEvent] = [event for event in events if isinstance(event, BlocksRemoved)]
        return evicted, events[len(evicted) :]


def pooled_hit_rate(rows: Sequence[TraceRow], num_blocks: int) -> float:
    """What one cache of all workers' size would hit, used in the order of arrival."""
    pooled = SimulatedWorker(num_blocks)
    hits = 0
    for row in rows:
        hits += pooled.admit(row)
        pooled.take_events()
    return hits / sum(len(row.hash_ids) for row in rows)


class Replay:
    """One run of a trace.

    Args:
        num_workers: all alike, `TOKENS_PER_S` each.
        cache_blocks: of all workers together.
    """

    def __init__(
        self,
        rows: Sequence[TraceRow],
        num_workers: int,
        cache_blocks: int,
        policy: PolicyName,
        seed: int = 0,
        cost: PrefillCost | None = None,
    ) -> None:
        self._rows = rows
        names = [f"worker-{number}" for number in range(num_workers)]
        self._workers = {name: SimulatedWorker(cache_blocks // num_workers) for name in names}
        self._index = PrefixIndex(ROOT)
        rng = random.Random(seed)
        expected = ExpectedPrefixes(ROOT)
        self.router = Router(self._index, expected, make_policy(policy), cost or PrefillCost(), BLOCK_SIZE, rng)
        self.router.set_workers(names)
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = itertools.count()
        self._result = ReplayResult(computed_tokens=dict.fromkeys(names, 0))

    def run(self) -> ReplayResult:
        """Play the whole trace."""
        for place, row in enumerate(self._rows):
            self._at(row.arrival_s, partial(self._arrive, place, row))
        self._at(0.0, self._report)
        while self._agenda:
            now_s, _, happen = heapq.heappop(self._agenda)
            happen(now_s)
        return self._result

    def _at(self, time_s: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._agenda, (time_s, next(self._number), happen))

    def _arrive(self, place: int, row: TraceRow, now_s: float) -> None:
        request = RoutingRequest(str(place), row.hashes, row.num_tokens)
        begin_s = time.thread_time()
        name = self.router.choose(request, now_s)[0]
        self._result.decisions_s.append(time.thread_time() - begin_s)
        worker = self._workers[name]
        worker.queue.append((place, row))
        if worker.remaining_s(now_s) == 0:
            self._begin(name, now_s)

    def _begin(self, name: str, now_s: float) -> None:
        """Start the next prompt of a worker's queue. What it caches can be shared from now on by those behind it."""
        worker = self._workers[name]
        place, row = worker.queue.popleft()
        num_held = worker.admit(row)
        self._result.num_blocks += len(row.hash_ids)
        self._result.hit_blocks += num_held
        held_tokens = min(num_held * BLOCK_SIZE, row.num_tokens - 1)
        self._result.computed_tokens[name] += row.num_tokens - held_tokens
        worker.busy_until_s = now_s + (row.num_tokens - held_tokens) / TOKENS_PER_S
        evicted, stored = worker.take_events()
        self._at(now_s + EVENT_DELAY_S, partial(self._hear, name, evicted))
        self._at(worker.busy_until_s, partial(self._finish, name, place, row, held_tokens, stored))

    def _finish(
        self, name: str, place: int, row: TraceRow, held_tokens: int, stored: Sequence[CacheEvent], now_s: float
    ) -> None:
        """The first token of a prompt: the call returns, what was stored is told, the next prompt begins."""
        self._result.waits_s.append(now_s - row.arrival_s)
        self._at(now_s + EVENT_DELAY_S, partial(self._hear, name, stored))
        self._at(now_s + SETTLE_DELAY_S, partial(self._settle, name, str(place), held_tokens))
        if self._workers[name].queue:
            self._begin(name, now_s)

    def _settle(self, name: str, request_id: str, held_tokens: int, now_s: float) -> None:
        self.router.settle(request_id, now_s, name)
        self.router.observe(request_id, held_tokens, now_s)

    def _hear(self, name: str, events: Sequence[CacheEvent], now_s: float) -> None:
        for event in events:
            self._index.apply(name, event)

    def _report(self, now_s: float) -> None:
        """Every worker tells its load, until the last request is through."""
        for name, worker in self._workers.items():
            self.router.take_report(name, WorkerReport(worker.queued_tokens(now_s), TOKENS_PER_S), now_s)
        if len(self._result.waits_s) < len(self._rows):
            self._at(now_s + REPORT_PERIOD_S, self._report)
