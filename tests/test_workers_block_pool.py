"""The free list: nothing is given out twice, nothing is taken back twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.block_pool import BlockPool


def test_every_block_is_given_out_once() -> None:
    pool = BlockPool(5)
    assert sorted(pool.allocate(2) + pool.allocate(3)) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0


def test_more_than_there_are_is_refused_and_changes_nothing() -> None:
    pool = BlockPool(3)
    pool.allocate(1)
    with pytest.raises(ValueError, match="3 blocks wanted, 2 free"):
        pool.allocate(3)
    assert pool.num_free == 2


def test_a_block_freed_twice_is_refused() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.free(blocks)
    with pytest.raises(ValueError, match=f"block {blocks[0]} is freed twice"):
        pool.free(blocks[:1])
    assert pool.num_free == len(pool.free_block_ids()) == 3


def test_a_block_twice_in_one_call_counts_once() -> None:
    """vLLM issue 42571: one free() with the same block twice made two free entries of it."""
    pool = BlockPool(3)
    (block,) = pool.allocate(1)
    with pytest.raises(ValueError, match=f"block {block} is freed twice"):
        pool.free([block, block])
    assert pool.num_free == len(pool.free_block_ids()) == 3
    assert sorted(pool.allocate(3)) == [0, 1, 2]


def test_a_block_never_given_out_cannot_be_freed() -> None:
    with pytest.raises(ValueError, match="block 2 is freed twice"):
        BlockPool(3).free([2])


@given(st.lists(st.integers(-4, 4), max_size=60))
def test_blocks_held_and_blocks_free_are_all_blocks(moves: list[int]) -> None:
    pool, held = BlockPool(8), list[int]()
    for move in moves:
        if move > 0 and move <= pool.num_free:
            held += pool.allocate(move)
        elif move < 0:
            pool.free(held[:-move])
            del held[:-move]
        assert sorted([*held, *pool.free_block_ids()]) == list(range(8))
        assert pool.num_free == 8 - len(held)
