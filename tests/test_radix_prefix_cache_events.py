"""What a prefix cache tells of its blocks begins at anchors: every sixteenth block, or the root."""

from array import array

from radix.block_hash import BlockHasher, token_bytes
from radix.events import BlocksRemoved, BlocksStored, NamespaceCleared
from radix.prefix_cache import Lease, PrefixCache

HASHER = BlockHasher("test", b"secret", 1, vocab_size=100)
ROOT = HASHER.root
STEM, BRANCH = list(range(40)), [*range(37), 99]


def hashes_of(path: list[int]) -> "array[int]":
    """Blocks of one token each."""
    return array("Q", HASHER.hash_blocks(token_bytes(path))[0])


def extend(cache: PrefixCache, lease: Lease, path: list[int], at: int) -> Lease:
    """Give the blocks of a path from `at` on."""
    return cache.extend(lease, hashes_of(path)[at:], path[at:], token_bytes(path[at:]))[0]


def test_each_new_block_is_told_from_the_last_anchor_on() -> None:
    cache = PrefixCache(1, ROOT)
    lease, hashes = cache.root, hashes_of(STEM)
    for at in range(20):
        lease = extend(cache, lease, STEM[: at + 1], at)
    assert cache.take_events() == [
        BlocksStored(hashes[begin - 1] if begin else ROOT, begin, hashes[begin : at + 1])
        for at, begin in enumerate([0] * 16 + [16] * 4)
    ]


def test_an_eviction_is_told_from_the_last_anchor_that_stays() -> None:
    cache, hashes = PrefixCache(1, ROOT), hashes_of(STEM)
    cache.release(extend(cache, cache.root, STEM[:20], 0))
    cache.take_events()
    assert sorted([*cache.evict(2), *cache.evict(2), *cache.evict(1)]) == [15, 16, 17, 18, 19]
    assert cache.take_events() == [
        BlocksRemoved(hashes[15], 16, hashes[16:20], 2),
        BlocksRemoved(hashes[15], 16, hashes[16:18], 0),
        BlocksRemoved(ROOT, 0, hashes[:16], 15),
    ]


def test_a_branch_is_told_from_an_anchor_in_the_run_above() -> None:
    cache, hashes = PrefixCache(1, ROOT), hashes_of(BRANCH)
    for path in (STEM, BRANCH):
        cache.release(extend(cache, cache.root, path, 0))
    event = BlocksStored(hashes[31], 32, hashes[32:])
    assert cache.take_events()[1:] == [event]
    whole, *branches = cache.snapshot()
    assert whole == BlocksStored(ROOT, 0, hashes[:37])
    other = BlocksStored(hashes[31], 32, hashes_of(STEM)[32:])
    assert branches in ([event, other], [other, event])


def test_a_cache_that_is_cleared_says_so_once() -> None:
    cache = PrefixCache(1, ROOT)
    for path in (STEM, BRANCH):
        cache.release(extend(cache, cache.root, path, 0))
    held = sorted(cache.held_block_ids())
    num_before = len(cache.take_events())
    assert num_before == 2
    assert sorted(cache.clear()) == held
    assert cache.take_events() == [NamespaceCleared(ROOT)]
    assert (cache.clear(), cache.take_events()) == ([], [])


def test_what_is_in_use_outlives_a_clearing_and_the_rest_is_told_block_by_block() -> None:
    cache, hashes = PrefixCache(1, ROOT), hashes_of(STEM)
    cache.release(extend(cache, cache.root, STEM, 0))
    lease = cache.acquire(cache.match(hashes[:20], token_bytes(STEM[:20])))
    cache.take_events()
    assert len(cache.clear()) == len(STEM) - 20
    assert cache.take_events() == [BlocksRemoved(hashes[15], 16, hashes[16:], 4)]
    cache.check_integrity([lease])
