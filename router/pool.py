"""Finds and scores the workers of a pool that are worth a look for a prompt: all of a few, a sample of many."""

import random
from collections.abc import Callable, Iterable, Sequence

from radix.prefix_index import PrefixIndex
from router.candidate import Candidate
from router.cost import CostModel
from router.expected import ExpectedPrefixes
from router.request import RoutingRequest
from router.worker_table import WorkerTable

Levels = list[tuple[int, int]]  # depth in blocks and the set of workers that hold as much, deepest first

SMALL_POOL = 16  # workers that are all looked at
SAMPLED_HOLDERS, SAMPLED_OTHERS = 4, 8  # in a larger pool: of each depth, and of all
FRESH_S, STALE_S = 3.0, 15.0


class Pool:
    """Overlap and load of the workers. In a large pool a decision costs as much as in one of `SMALL_POOL`: it looks at
    a few holders of every depth and at a few workers besides, which among many is as good as the best of all.

    Args:
        index: kept by the caller from the workers' events.
        table: the workers and their loads.
        cost: what is compared.
        block_size: tokens per block of the index.
        rng: samples.
        age_of: seconds since a worker's events last said that the index is right about it.
    """

    def __init__(
        self,
        index: PrefixIndex,
        expected: ExpectedPrefixes,
        table: WorkerTable,
        cost: CostModel,
        block_size: int,
        rng: random.Random,
        age_of: Callable[[str], float],
    ) -> None:
        self._index = index
        self._expected = expected
        self._cost = cost
        self._block_size = block_size
        self._age_of = age_of
        self.rng = rng
        self.table = table

    def overlapping(self, request: RoutingRequest, now_s: float) -> list[Candidate]:
        """The workers that hold the prompt, or parts of it, and others to compare them with."""
        found = self._lookup(request.block_hashes, now_s)
        names = self.table.names
        if len(names) > SMALL_POOL:
            names = list(dict.fromkeys([*self.sample(SAMPLED_OTHERS), *self._holders(found)]))
        return self._score(names, request, found, now_s)

    def by_load(self, names: Iterable[str], request: RoutingRequest, now_s: float) -> list[Candidate]:
        """These workers as candidates of whom nothing is known but their load: for policies that must not depend on
        the index."""
        states = self.table.states
        costs = [(name, self._cost(states[name], request.num_tokens, 0.0, now_s)) for name in names]
        return [Candidate(name, 0, 0.0, self._age_of(name), cost) for name, cost in costs]

    def sample(self, count: int) -> Sequence[str]:
        """All workers, or where there are more than `count` as many neighbours from a place drawn at random."""
        names = self.table.names
        if len(names) <= count:
            return names
        start = int(self.rng.random() * len(names))
        return [*names[start : start + count], *names[: max(0, start + count - len(names))]]

    def _lookup(self, hashes: Sequence[int], now_s: float) -> list[tuple[PrefixIndex, Levels]]:
        indexes = (self._index, *self._expected.indexes(now_s))
        return [(index, index.holders(hashes)) for index in indexes]

    def _holders(self, found: list[tuple[PrefixIndex, Levels]]) -> Iterable[str]:
        for index, levels in found:
            seen = 0
            for _, holders in levels:
                for name in index.workers_of(sample_bits(holders & ~seen, SAMPLED_HOLDERS, self.rng)):
                    if name in self.table.states:  # else it has just gone
                        yield name
                seen = holders

    def _score(
        self, names: Iterable[str], request: RoutingRequest, found: list[tuple[PrefixIndex, Levels]], now_s: float
    ) -> list[Candidate]:
        (index, levels), *others = found
        expected = [(other, deep) for other, deep in others if deep]
        states, size = self.table.states, self._block_size
        scored = []
        for name in names:
            state, age_s = states[name], self._age_of(name)
            known = depth_in(levels, index.bit_of(name)) * size if levels else 0
            credited = known * freshness(age_s)
            for other, deep in expected:
                hoped = depth_in(deep, other.bit_of(name)) * size
                known, credited = max(known, hoped), max(credited, hoped)
            credited *= state.trust
            cost = self._cost(state, request.num_tokens, credited, now_s)
            scored.append(Candidate(name, known, credited, age_s, cost))
        return scored


def depth_in(levels: Levels, bit: int) -> int:
    """Blocks that the worker with this bit holds."""
    for depth, holders in levels:
        if holders & bit:
            return depth
    return 0


def freshness(age_s: float) -> float:
    """How much of what the index says of a worker is believed: all while it is fresh, nothing once it is stale."""
    if age_s <= FRESH_S:
        return 1.0
    return max(0.0, (STALE_S - age_s) / (STALE_S - FRESH_S))


def sample_bits(bits: int, count: int, rng: random.Random) -> int:
    """All bits where there are at most `count`, else up to as many, each found from a place drawn at random."""
    if bits.bit_count() <= count:
        return bits
    length, sampled = bits.bit_length(), 0
    for _ in range(count):
        place = int(rng.random() * length)
        above = bits >> place << place or bits
        sampled |= above & -above
    return sampled
