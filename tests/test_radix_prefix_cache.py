"""The worker's prefix cache: each method alone, then random histories against a naive model, block by block."""

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from radix.block_hash import BlockHasher, token_bytes
from radix.events import BlocksRemoved, BlocksStored
from radix.prefix_cache import Lease, PrefixCache
from radix.prefix_index import PrefixIndex

Path = tuple[int, ...]  # one number per block; the block's tokens are made from it
BLOCK_SIZE = 2
HASHER = BlockHasher("test", b"secret", BLOCK_SIZE, vocab_size=256)
ROOT = HASHER.root


def tokens_of(path: Path) -> bytes:
    return token_bytes([token for name in path for token in (name, name + 100)])


def hashes_of(path: Path) -> list[int]:
    return HASHER.hash_blocks(tokens_of(path))[0]


def stored(path: Path) -> BlocksStored:
    """The event of a path less deep than an anchor."""
    return BlocksStored(ROOT, 0, array("Q", hashes_of(path)))


def removed(path: Path, num_kept: int) -> BlocksRemoved:
    return BlocksRemoved(ROOT, 0, array("Q", hashes_of(path)), num_kept)


def extend(cache: PrefixCache, lease: Lease, path: Path, at: int, ids: list[int]) -> tuple[Lease, list[int]]:
    """Give the blocks of `path` from `at` on."""
    return cache.extend(lease, hashes_of(path)[at:], ids, tokens_of(path[at:]))


def store(cache: PrefixCache, path: Path, ids: list[int]) -> Lease:
    return extend(cache, cache.root, path, 0, ids)[0]


def match_ids(cache: PrefixCache, path: Path) -> list[int]:
    return list(cache.match(hashes_of(path), tokens_of(path)).block_ids)


def acquire(cache: PrefixCache, path: Path) -> Lease:
    return cache.acquire(cache.match(hashes_of(path), tokens_of(path)))


def cache_of(*paths: tuple[Path, list[int]]) -> PrefixCache:
    """A cache in which these were used one after the other and are now idle."""
    cache = PrefixCache(BLOCK_SIZE, ROOT)
    for path, ids in paths:
        cache.release(store(cache, path, ids))
        cache.check_integrity()
    return cache


def test_match_finds_the_longest_prefix_and_changes_nothing() -> None:
    cache = cache_of(((1, 2, 3), [10, 11, 12]), ((1, 2, 9, 9), [50, 51, 13, 14]))
    before = list(cache.snapshot())
    cache.take_events()
    assert match_ids(cache, (1, 2, 3, 4)) == [10, 11, 12]
    assert match_ids(cache, (1, 2, 9, 8)) == [10, 11, 13]
    assert match_ids(cache, (1,)) == [10]
    assert match_ids(cache, (2, 1)) == match_ids(cache, ()) == []
    assert (list(cache.snapshot()), cache.take_events(), cache.num_idle_blocks) == (before, [], 5)
    assert cache.evict(1) == [12], "a match does not count as a use"


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_hash_that_collides_is_a_miss(at: int) -> None:
    cache = cache_of(((1, 2, 3, 4), [10, 11, 12, 13]), ((1, 2, 5), [0, 0, 15]))
    other = tokens_of((*(1, 2, 3, 4)[:at], 77, *(1, 2, 3, 4)[at + 1 :]))
    assert list(cache.match(hashes_of((1, 2, 3, 4)), other).block_ids) == [10, 11, 12, 13][:at]


def test_nothing_behind_a_hash_that_collides_is_matched() -> None:
    cache = cache_of(((1, 2, 3, 4), [10, 11, 12, 13]), ((1, 2, 5), [0, 0, 15]))
    assert list(cache.match(hashes_of((1, 2, 3, 4)), tokens_of((3, 4, 3, 4))).block_ids) == []


def test_extend_over_a_hash_that_collides_keeps_the_callers_blocks_its_own() -> None:
    cache = cache_of(((1, 2), [10, 11]), ((1, 2, 3), [0, 0, 12]))
    lease, kept = cache.extend(cache.root, hashes_of((1, 2, 3)), [20, 21, 22], tokens_of((1, 2, 77)))
    assert kept == [10, 11][: len(kept)], "how many of the blocks before it are shared is up to the cache"
    assert sorted(cache.held_block_ids()) == [10, 11, 12]
    cache.release(lease)
    cache.check_integrity()


def test_a_lease_on_part_of_a_run_pins_only_that_part() -> None:
    cache = cache_of(((1, 2, 3, 4), [10, 11, 12, 13]))
    lease = acquire(cache, (1, 2, 9))
    cache.check_integrity([lease])
    assert cache.num_idle_blocks == 2
    assert sorted(cache.evict(9)) == [12, 13]
    cache.release(lease)
    assert sorted(cache.evict(9)) == [10, 11]
    cache.check_integrity()


def test_a_match_may_be_acquired_after_another_one() -> None:
    cache = cache_of(((1, 2, 3, 4, 5), [10, 11, 12, 13, 14]))
    path: Path = (1, 2, 3, 4, 5)
    longer, shorter = (cache.match(hashes_of(path[:end]), tokens_of(path[:end])) for end in (3, 2))
    lease = cache.acquire(shorter)
    cache.release(cache.acquire(longer))
    cache.check_integrity([lease])
    assert sorted(cache.evict(9)) == [12, 13, 14], "blocks 10 and 11 are still leased"
    cache.release(lease)
    cache.check_integrity()


def test_extend_keeps_the_blocks_of_whoever_was_first() -> None:
    cache = PrefixCache(BLOCK_SIZE, ROOT)
    first, kept = extend(cache, cache.root, (1, 2), 0, [10, 11])
    assert kept == [10, 11]
    second, kept = extend(cache, cache.root, (1, 2, 3), 0, [20, 21, 22])
    assert kept == [10, 11, 22]
    first, kept = extend(cache, first, (1, 2, 3, 4), 2, [32, 33])
    assert kept == [22, 33]
    assert extend(cache, first, (1, 2, 3, 4), 4, []) == (first, [])
    cache.check_integrity([first, second])
    assert cache.evict(9) == []
    cache.release(second)
    assert cache.evict(9) == []
    cache.release(first)
    assert sorted(cache.evict(9)) == [10, 11, 22, 33]


def test_a_sequence_that_grows_alone_stays_one_run() -> None:
    cache = PrefixCache(BLOCK_SIZE, ROOT)
    lease, path = cache.root, tuple(range(20))
    for at in range(20):
        lease, _ = extend(cache, lease, path[: at + 1], at, [at])
    assert list(cache.snapshot()) == [stored(path)]
    assert match_ids(cache, path) == list(range(20))


def test_eviction_is_least_recently_used_leaf_first() -> None:
    cache = cache_of(((1, 2), [10, 11]), ((3,), [13]), ((1, 4), [0, 14]))
    cache.release(acquire(cache, (1, 2)))  # the order of use is now 3, (1, 4), (1, 2)
    cache.take_events()
    assert [cache.evict(1) for _ in range(5)] == [[13], [14], [11], [10], []]
    assert cache.take_events() == [removed((3,), 0), removed((1, 4), 1), removed((1, 2), 1), removed((1,), 0)]
    assert list(cache.snapshot()) == []
    cache.check_integrity()


def test_eviction_cuts_a_run_from_its_tail() -> None:
    cache = cache_of(((1, 2, 3, 4), [10, 11, 12, 13]))
    cache.take_events()
    assert sorted(cache.evict(3)) == [11, 12, 13]
    assert cache.take_events() == [removed((1, 2, 3, 4), 1)]
    assert match_ids(cache, (1, 2)) == [10]
    assert cache.evict(0) == cache.evict(-1) == []


def test_a_path_that_comes_free_whole_is_one_run_again() -> None:
    cache = cache_of(((1, 2, 3, 4), [10, 11, 12, 13]))
    longer, shorter = acquire(cache, (1, 2, 3, 4)), acquire(cache, (1, 2))
    cache.release(shorter)
    assert len(list(cache.snapshot())) == 2
    cache.release(longer)
    cache.check_integrity()
    assert list(cache.snapshot()) == [stored((1, 2, 3, 4))]
    assert match_ids(cache, (1, 2, 3, 4)) == [10, 11, 12, 13]


def test_runs_that_were_used_at_different_times_stay_apart() -> None:
    cache = cache_of(((1, 2, 3, 4), [10, 11, 12, 13]), ((5,), [14]), ((1, 2), [0, 0]))
    assert [cache.evict(1) for _ in range(5)] == [[13], [12], [14], [11], [10]]


def test_a_branch_keeps_runs_apart() -> None:
    cache = cache_of(((1, 2, 3), [10, 11, 12]), ((1, 2, 4), [0, 0, 13]), ((1, 2, 3), [0, 0, 0]))
    assert len(list(cache.snapshot())) == 3
    assert cache.evict(1) == [13]
    cache.release(acquire(cache, (1, 2, 3)))
    assert len(list(cache.snapshot())) == 1


def test_an_eviction_is_one_event_for_each_run() -> None:
    cache = cache_of(((1, 2), [10, 11]), ((3, 4), [13, 14]), ((1, 5, 6), [0, 15, 16]))
    cache.take_events()
    assert cache.evict(4) == [11, 13, 14, 16]
    assert cache.take_events() == [removed((1, 2), 1), removed((3, 4), 0), removed((1, 5, 6), 2)]
    assert (cache.evict(0), cache.take_events()) == ([], [])
    cache.check_integrity()


def test_the_root_is_a_lease_that_pins_nothing() -> None:
    cache = cache_of(((1,), [10]))
    assert acquire(cache, (5,)) is cache.root
    cache.release(cache.root)
    assert cache.num_idle_blocks == 1
    cache.check_integrity()


class PrefixCacheMachine(RuleBasedStateMachine):
    """Sequences start, grow, end and make room; the model keeps one entry per block and searches everything."""

    POOL = 14
    paths = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
    picks = st.integers(0, 1000)

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(BLOCK_SIZE, ROOT)
        self.index = PrefixIndex(ROOT)
        self.free = list(range(self.POOL))
        self.held: dict[Path, int] = {}
        self.idle_since: dict[Path, int] = {}
        self.leases: list[tuple[Lease, Path]] = []
        self.clock = 0

    def pinned(self) -> set[Path]:
        return {path[: end + 1] for _, path in self.leases for end in range(len(path))}

    @rule(path=paths)
    def start(self, path: Path) -> None:
        match = self.cache.match(hashes_of(path), tokens_of(path))
        prefixes = [path[: end + 1] for end in range(len(path)) if path[: end + 1] in self.held]
        assert list(match.block_ids) == [self.held[prefix] for prefix in prefixes]
        self.leases.append((self.cache.acquire(match), path[: len(prefixes)]))

    @precondition(lambda self: self.leases)
    @rule(pick=picks, more=paths)
    def grow(self, pick: int, more: Path) -> None:
        lease, path = self.leases.pop(pick % len(self.leases))
        longer = path + more[: len(self.free)]
        own = [self.free.pop() for _ in longer[len(path) :]]
        lease, kept = extend(self.cache, lease, longer, len(path), own)
        prefixes = [longer[: end + 1] for end in range(len(path), len(longer))]
        assert kept == [self.held.setdefault(prefix, block) for prefix, block in zip(prefixes, own, strict=True)]
        self.free += set(own) - set(kept)
        self.leases.append((lease, longer))

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def end(self, pick: int) -> None:
        lease, path = self.leases.pop(pick % len(self.leases))
        self.cache.release(lease)
        for length in range(len(path), 0, -1):
            if path[:length] not in self.pinned():
                self.clock += 1
                self.idle_since[path[:length]] = self.clock

    @rule(count=st.integers(1, 6))
    def evict(self, count: int) -> None:
        expected = []
        for _ in range(count):
            kept = self.pinned() | {path[:-1] for path in self.held}
            leaves = [path for path in self.held if path not in kept]
            if leaves:
                expected.append(self.held.pop(min(leaves, key=self.idle_since.__getitem__)))
        freed = self.cache.evict(count)
        assert sorted(freed) == sorted(expected)
        self.free += freed

    @invariant()
    def nothing_is_lost(self) -> None:
        self.cache.check_integrity([lease for lease, _ in self.leases])
        assert sorted(self.cache.held_block_ids()) == sorted(self.held.values())
        assert sorted([*self.free, *self.held.values()]) == list(range(self.POOL))
        assert self.cache.num_idle_blocks == len(self.held.keys() - self.pinned())

    @invariant()
    def the_index_is_exact(self) -> None:
        for event in self.cache.take_events():
            self.index.apply("worker", event)
        self.index.check_integrity()
        rebuilt = PrefixIndex(ROOT)
        for stored in self.cache.snapshot():
            rebuilt.apply("worker", stored)
        held = {hashes_of(path)[-1] for path in self.held}
        assert self.index.blocks_of("worker") == rebuilt.blocks_of("worker") == held


@pytest.mark.parametrize("anchor_step", [1, 3, 16])
def test_random_histories_agree_with_the_model(anchor_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("prefix_cache", "holder_tree"):  # the paths are short, so that they meet often
        monkeypatch.setattr(f"radix.{module}.ANCHOR_STEP", anchor_step)
    run_state_machine_as_test(
        PrefixCacheMachine, settings=settings(deadline=None, max_examples=60, stateful_step_count=40)
    )
