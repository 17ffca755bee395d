"""The routers' index: each operation alone, then random workers against naive models of what they hold."""

import random

import pygtrie
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from radix.events import BlocksRemoved, BlocksStored
from radix.prefix_index import PrefixIndex, UnknownBlockError, set_bits

Path = tuple[int, ...]
ROOT = 2**64 - 1


def chain(path: Path) -> list[int]:
    """A number for every prefix of `path`, different for different prefixes, in place of its hash."""
    hashes, value = [], 1
    for name in path:
        value = value * 4 + name
        hashes.append(value)
    return hashes


def index_of(**holdings: list[Path]) -> PrefixIndex:
    index = PrefixIndex(ROOT)
    for worker, paths in holdings.items():
        for path in paths:
            index.apply(worker, BlocksStored(ROOT, chain(path)))
    index.check_integrity()
    return index


def runs(index: PrefixIndex) -> list[list[int]]:
    return sorted(node.hashes for node in index._tree.nodes())


def assert_canonical(index: PrefixIndex) -> None:
    """No run could be merged with its only child."""
    for node in index._tree.nodes():
        assert [child.value for child in node.children.values()] != [node.value]


def test_match_gives_each_worker_its_own_depth() -> None:
    index = index_of(a=[(1, 2, 3, 1)], b=[(1, 2)], c=[(1, 3), (2,)])
    assert index.match(chain((1, 2, 3, 3))) == {"a": 3, "b": 2, "c": 1}
    assert index.match(chain((2, 1))) == {"c": 1}
    assert index.match(chain((3,))) == index.match([]) == {}
    assert index.num_blocks == 6


def test_runs_split_where_holders_differ_and_merge_where_not() -> None:
    index = index_of(a=[(1, 2, 3, 1)], b=[(1, 2)])
    path = chain((1, 2, 3, 1))
    assert runs(index) == [path[:2], path[2:]]
    index.apply("b", BlocksStored(path[1], path[2:]))
    assert runs(index) == [path]
    index.apply("a", BlocksRemoved(path[3:]))
    assert runs(index) == [path[:3], path[3:]]
    index.apply("b", BlocksRemoved(path[3:]))
    assert runs(index) == [path[:3]]
    index.check_integrity()


def test_a_store_over_two_runs_merges_all_three() -> None:
    path = chain((1, 2, 3, 1))
    index = index_of(a=[(1, 2, 3, 1)], c=[(1, 2, 3)], b=[(1,)])
    index.apply("b", BlocksStored(path[0], path[1:]))
    assert runs(index) == [path[:3], path[3:]]


def test_many_small_stores_stay_one_run() -> None:
    index, path = PrefixIndex(ROOT), chain((1, 2, 3) * 20)
    for at, block in enumerate(path):
        index.apply("a", BlocksStored(path[at - 1] if at else ROOT, [block]))
        index.check_integrity()
    assert runs(index) == [path]


def test_drop_forgets_one_worker_and_its_name_can_come_back() -> None:
    index = index_of(a=[(1, 2, 3), (1, 1)], b=[(1, 2)])
    index.drop("a")
    index.drop("never seen")
    index.check_integrity()
    assert index.blocks_of("a") == set()
    assert index.match(chain((1, 2, 3))) == {"b": 2}
    assert runs(index) == [chain((1, 2))]
    index.apply("a", BlocksStored(ROOT, chain((2,))))
    assert (index.match(chain((2,))), index.match(chain((1,)))) == ({"a": 1}, {"b": 1})


@pytest.mark.parametrize("event", [BlocksStored(77, [78]), BlocksRemoved([77])])
def test_an_event_on_an_unknown_block_is_refused_and_changes_nothing(event: BlocksStored | BlocksRemoved) -> None:
    index = index_of(a=[(1, 2)])
    with pytest.raises(UnknownBlockError, match="0x000000000000004d"):
        index.apply("a", event)
    index.check_integrity()
    assert index.blocks_of("a") == set(chain((1, 2)))


@pytest.mark.parametrize("event", [BlocksStored(chain((1, 2))[1], [999]), BlocksRemoved(chain((1, 2))[1:])])
def test_an_event_on_a_block_that_only_others_hold_is_refused(event: BlocksStored | BlocksRemoved) -> None:
    index = index_of(a=[(1, 2, 3)], b=[(1,)])
    with pytest.raises(UnknownBlockError):
        index.apply("b", event)
    index.check_integrity()
    assert (index.blocks_of("a"), index.blocks_of("b")) == (set(chain((1, 2, 3))), set(chain((1,))))


@pytest.mark.parametrize("hashes", [[7, 7], chain((1, 2))[1:]])
def test_one_block_behind_two_parents_is_refused(hashes: list[int]) -> None:
    """Chained hashes name their whole prefix: such an event is a collision or a lie."""
    index = index_of(a=[(1, 2), (3,)])
    with pytest.raises(UnknownBlockError, match="two different parents"):
        index.apply("a", BlocksStored(chain((3,))[0], hashes))
    index.check_integrity()
    assert index.blocks_of("a") == set(chain((1, 2)) + chain((3,)))


def test_one_event_may_remove_several_runs() -> None:
    """Leaves first; a run above them goes once they are gone."""
    index = index_of(a=[(1, 2, 3), (1, 2, 1), (2,), (3, 3)], b=[(1, 2, 3)])
    gone = [*chain((1, 2, 3))[2:], *chain((3, 3)), *chain((1, 2, 1))[2:], *chain((1, 2))[1:]]
    index.apply("a", BlocksRemoved(gone))
    index.check_integrity()
    assert_canonical(index)
    assert index.blocks_of("a") == {*chain((1,)), *chain((2,))}
    assert index.blocks_of("b") == set(chain((1, 2, 3)))


def test_a_removal_that_names_an_unknown_block_later_on_is_refused() -> None:
    index = index_of(a=[(1, 2), (3,)])
    with pytest.raises(UnknownBlockError, match="0x000000000000004d"):
        index.apply("a", BlocksRemoved([*chain((3,)), 77]))
    index.check_integrity()


def test_a_hole_in_what_a_worker_holds_ends_its_match() -> None:
    path = chain((1, 2, 3))
    index = index_of(a=[(1, 2, 3)], b=[(1, 2, 3)])
    index.apply("a", BlocksRemoved(path[1:2]))
    index.check_integrity()
    assert index.match(path) == {"a": 1, "b": 3}


def test_set_bits() -> None:
    assert [set_bits(bits) for bits in (0, 1, 0b1010)] == [[], [1], [2, 8]]


class Cluster:
    """Workers that store and evict at random as a `PrefixCache` does, the index they report to, and one trie each."""

    def __init__(self, rng: random.Random, num_workers: int = 5, max_depth: int = 8) -> None:
        self.rng, self.max_depth = rng, max_depth
        self.index = PrefixIndex(ROOT)
        self.tries = {f"worker-{number}": pygtrie.Trie() for number in range(num_workers)}

    def random_path(self) -> Path:
        return tuple(self.rng.choices((1, 2, 3), weights=(4, 2, 1), k=self.rng.randint(1, self.max_depth)))

    def depth(self, worker: str, path: Path) -> int:
        longest = self.tries[worker].longest_prefix(path)
        return len(longest.key) if longest else 0

    def store(self, worker: str) -> None:
        """One or two events for what the worker lacks of a random path."""
        path = self.random_path()
        hashes, held = chain(path), self.depth(worker, path)
        border = self.rng.randint(held, len(path))
        for begin, end in ((held, border), (border, len(path))):
            if begin < end:
                self.index.apply(worker, BlocksStored(hashes[begin - 1] if begin else ROOT, hashes[begin:end]))
        self.tries[worker].update({path[: end + 1]: True for end in range(held, len(path))})

    def evict(self, worker: str) -> None:
        """The tail of a leaf's run, as long as nothing else hangs on it."""
        trie = self.tries[worker]
        if not trie:
            return
        path: Path = max(trie.keys(self.rng.choice(list(trie))), key=len)
        keep = len(path)
        while keep and self.rng.random() < 0.8 and not trie.has_subtrie(path[:keep]):
            keep -= 1
            del trie[path[: keep + 1]]
        if keep < len(path):
            self.index.apply(worker, BlocksRemoved(chain(path)[keep:]))

    def drop(self, worker: str) -> None:
        self.index.drop(worker)
        self.tries[worker].clear()

    def act(self) -> None:
        actions, weights = (self.store, self.evict, self.drop), (50, 50, 1)
        self.rng.choices(actions, weights)[0](self.rng.choice(list(self.tries)))

    def assert_match_agrees(self) -> None:
        path = self.random_path()
        depths = {worker: self.depth(worker, path) for worker in self.tries}
        assert self.index.match(chain(path)) == {worker: depth for worker, depth in depths.items() if depth}

    def assert_same_blocks(self) -> None:
        self.index.check_integrity()
        held = {worker: {chain(path)[-1] for path in trie} for worker, trie in self.tries.items()}
        assert {worker: self.index.blocks_of(worker) for worker in self.tries} == held
        assert self.index.num_blocks == len(set[int]().union(*held.values()))


@given(rng=st.randoms(use_true_random=False), num_workers=st.integers(1, 5))
@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_step_agrees_with_what_the_workers_hold(rng: random.Random, num_workers: int) -> None:
    cluster = Cluster(rng, num_workers, max_depth=5)
    for _ in range(40):
        cluster.act()
        cluster.assert_same_blocks()
        cluster.assert_match_agrees()
        assert_canonical(cluster.index)


def test_twenty_thousand_operations_agree_with_a_trie_and_leave_nothing_behind() -> None:
    cluster = Cluster(random.Random(20260))
    for step in range(20_000):
        cluster.act()
        cluster.assert_match_agrees()
        if step % 50 == 0:
            cluster.assert_same_blocks()
            assert_canonical(cluster.index)
    for worker in cluster.tries:
        while cluster.tries[worker]:
            cluster.evict(worker)
    cluster.assert_same_blocks()
    assert (cluster.index.num_blocks, runs(cluster.index)) == (0, [])
