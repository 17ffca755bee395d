"""The routers' index against a trie of every prefix for each worker: random events, drops, and a cap on memory."""

import random
from collections.abc import Iterator
from itertools import pairwise

import pygtrie
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from radix.events import BlocksRemoved, BlocksStored
from radix.prefix_index import PrefixIndex, UnknownBlockError

Path = tuple[int, ...]  # a namespace, then a name for each block
ANCHOR_STEP = 3
ROOTS = {1: 2**64 - 1, 2: 2**64 - 2}


@pytest.fixture(autouse=True)
def _short_steps() -> Iterator[None]:
    """Paths are short, so that they meet often; anchors stand as much closer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radix.holder_tree.ANCHOR_STEP", ANCHOR_STEP)
        yield


def chain(path: Path) -> list[int]:
    """A number for every prefix of a path, different for different prefixes, in place of its hash."""
    hashes, value = [], path[0]
    for name in path[1:]:
        value = value * 4 + name
        hashes.append(value)
    return hashes


def prefixes(path: Path, longer_than: int = 0) -> list[Path]:
    """Those of at least one block and more than `longer_than`."""
    return [path[: end + 1] for end in range(longer_than + 1, len(path))]


def cut(trie: pygtrie.Trie, path: Path) -> None:
    """Remove a path and all below it."""
    if trie.has_node(path):
        del trie[path:]


class Cluster:
    """Workers that store and evict at random as a `PrefixCache` does, the index they report to, and two tries each.

    Attributes:
        held: what each worker holds.
        known: what the index should know of it: less, once it has dropped runs for want of room.
    """

    def __init__(self, rng: random.Random, num_workers: int = 5, max_depth: int = 8, max_bytes: int = 2**30) -> None:
        self.rng, self.max_depth = rng, max_depth
        self.index = PrefixIndex(ROOTS[1], max_bytes)
        names = [f"worker-{number}" for number in range(num_workers)]
        self.held = {name: pygtrie.Trie() for name in names}
        self.known = {name: pygtrie.Trie() for name in names}
        self.num_dropped = 0

    def random_path(self) -> Path:
        names = self.rng.choices((1, 2, 3), weights=(4, 2, 1), k=self.rng.randint(1, self.max_depth))
        return (self.rng.choice((1, 1, 2)), *names)

    def depth(self, worker: str, path: Path) -> int:
        longest = self.known[worker].longest_prefix(path)
        return len(longest.key) - 1 if longest else 0

    def store(self, worker: str) -> None:
        """One or two events for what the worker lacks of a random path."""
        path = self.random_path()
        longest = self.held[worker].longest_prefix(path)
        num_held = len(longest.key) - 1 if longest else 0
        border = self.rng.randint(num_held, len(path) - 1)
        for end in (border + 1, len(path)):
            part = path[:end]
            begin = self.rng.choice(range(0, num_held + 1, ANCHOR_STEP))
            self.held[worker].update(dict.fromkeys(prefixes(part), True))
            if begin < end - 1:
                event = BlocksStored(chain(part)[begin - 1] if begin else ROOTS[path[0]], begin, chain(part)[begin:])
                self.report(worker, event, part)

    def insert(self, worker: str) -> None:
        path = (1, *self.random_path()[1:])
        self.held[worker].update(dict.fromkeys(prefixes(path), True))
        self.index.insert(worker, chain(path))
        self.known[worker].update(dict.fromkeys(prefixes(path), True))
        self.forget_dropped()

    def evict(self, worker: str) -> None:
        """The tail of a leaf's run, as long as nothing else hangs on it."""
        trie = self.held[worker]
        if not trie:
            return
        path: Path = max(trie.keys(self.rng.choice(list(trie))), key=len)
        keep = len(path)
        while keep > 1 and self.rng.random() < 0.8 and not trie.has_subtrie(path[:keep]):
            keep -= 1
            del trie[path[: keep + 1]]
        if keep < len(path):
            begin = (keep - 1) // ANCHOR_STEP * ANCHOR_STEP
            hashes = chain(path)
            anchor = hashes[begin - 1] if begin else ROOTS[path[0]]
            self.report(worker, BlocksRemoved(anchor, begin, hashes[begin:], keep - 1 - begin), path)

    def report(self, worker: str, event: BlocksStored | BlocksRemoved, path: Path) -> None:
        """Let the index and the model know of an event, once or twice."""
        is_placed = event.depth <= self.depth(worker, path[: event.depth + 1])
        for _ in range(self.rng.choice((1, 1, 2))):
            if is_placed or self.num_dropped:
                self.index.apply(worker, event)
            else:
                with pytest.raises(UnknownBlockError):
                    self.index.apply(worker, event)
        if is_placed and isinstance(event, BlocksStored):
            self.known[worker].update(dict.fromkeys(prefixes(path), True))
        elif is_placed:
            cut(self.known[worker], path[: event.depth + event.num_kept + 2])
        self.forget_dropped()

    def forget_dropped(self) -> None:
        """What the index dropped is as many blocks as it says, and leaves each worker's paths whole."""
        fresh = self.index.num_dropped_blocks - self.num_dropped
        if not fresh:
            return
        self.num_dropped += fresh
        gone: set[int] = set()
        for worker, trie in self.known.items():
            left = self.index.blocks_of(worker)
            missing = [path for path in trie if chain(path)[-1] not in left]
            for path in missing:
                gone.add(chain(path)[-1])
                del trie[path]
            assert all(path[:-1] in trie for path in trie if len(path) > 2)
        assert 0 < len(gone) <= fresh

    def drop(self, worker: str) -> None:
        self.index.drop(worker)
        self.held[worker].clear()
        self.known[worker].clear()

    def drop_namespace(self) -> None:
        namespace = self.rng.choice((1, 2))
        self.index.drop_namespace(ROOTS[namespace])
        for trie in [*self.held.values(), *self.known.values()]:
            cut(trie, (namespace,))

    def act(self) -> None:
        worker = self.rng.choice(list(self.held))
        draw = self.rng.random()
        if draw < 0.4:
            self.store(worker)
        elif draw < 0.5:
            self.insert(worker)
        elif draw < 0.98:
            self.evict(worker)
        elif draw < 0.99:
            self.drop(worker)
        else:
            self.drop_namespace()

    def assert_match_agrees(self) -> None:
        path = self.random_path()
        depths = {worker: depth for worker in self.known if (depth := self.depth(worker, path))}
        assert self.index.match(chain(path)) == depths
        holders = [(depth, set(self.index.workers_of(mask))) for depth, mask in self.index.holders(chain(path))]
        assert holders == [
            (depth, {worker for worker in depths if depths[worker] >= depth})
            for depth in sorted(set(depths.values()), reverse=True)
        ]
        assert all(deeper < shallower for (_, deeper), (_, shallower) in pairwise(holders))

    def assert_same_blocks(self) -> None:
        self.index.check_integrity()
        known = {worker: {chain(path)[-1] for path in trie} for worker, trie in self.known.items()}
        assert {worker: self.index.blocks_of(worker) for worker in self.known} == known
        assert self.index.num_blocks == len(set[int]().union(*known.values()))


@given(rng=st.randoms(use_true_random=False), num_workers=st.integers(1, 5), max_bytes=st.sampled_from([4_000, 2**30]))
@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_step_agrees_with_what_the_workers_hold(rng: random.Random, num_workers: int, max_bytes: int) -> None:
    cluster = Cluster(rng, num_workers, max_depth=5, max_bytes=max_bytes)
    for _ in range(40):
        cluster.act()
        cluster.assert_same_blocks()
        cluster.assert_match_agrees()


def test_twenty_thousand_operations_agree_with_a_trie_and_leave_nothing_behind() -> None:
    cluster = Cluster(random.Random(20260))
    for step in range(20_000):
        cluster.act()
        cluster.assert_match_agrees()
        if step % 50 == 0:
            cluster.assert_same_blocks()
    for worker in cluster.held:
        while cluster.held[worker]:
            cluster.evict(worker)
    cluster.assert_same_blocks()
    assert (cluster.index.num_blocks, cluster.index.num_bytes, cluster.num_dropped) == (0, 0, 0)


def test_operations_with_too_little_room_agree_but_for_what_was_dropped() -> None:
    cluster = Cluster(random.Random(20261), max_bytes=9_000)
    for step in range(5_000):
        cluster.act()
        cluster.assert_match_agrees()
        if step % 50 == 0:
            cluster.assert_same_blocks()
    assert cluster.num_dropped > 500
