"""Movement of K and V: by slot into one layer, and whole blocks out of one cache into another."""

import pytest
import torch

from kernels.kv_store import copy_block, gather_blocks, scatter_blocks, write_kv

LAYERS, BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM = 3, 7, 4, 2, 5
SHAPE = (LAYERS, 2, BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM)


def numbered_cache(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_a_token_lands_in_its_slot_and_nowhere_else() -> None:
    cache = numbered_cache()
    expected = cache.clone()
    slots = [9, 0, 27, 14]
    k, v = torch.randn(2, len(slots), KV_HEADS, HEAD_DIM)
    for token, slot in enumerate(slots):
        expected[1, 0, slot // BLOCK_SIZE, slot % BLOCK_SIZE] = k[token]
        expected[1, 1, slot // BLOCK_SIZE, slot % BLOCK_SIZE] = v[token]
    write_kv(cache[1], k, v, torch.tensor(slots))
    assert torch.equal(cache, expected)


def test_writing_no_token_changes_nothing() -> None:
    cache = numbered_cache()
    nothing = torch.empty(0, KV_HEADS, HEAD_DIM)
    write_kv(cache[0], nothing, nothing, torch.empty(0, dtype=torch.int64))
    assert torch.equal(cache, numbered_cache())


@pytest.mark.parametrize("slot", [-1, BLOCKS * BLOCK_SIZE])
def test_a_slot_outside_the_cache_is_refused(slot: int) -> None:
    cache = numbered_cache()
    token = torch.zeros(1, KV_HEADS, HEAD_DIM)
    with pytest.raises((IndexError, RuntimeError), match=r"index|range"):
        write_kv(cache[0], token, token, torch.tensor([slot]))
    assert torch.equal(cache, numbered_cache())


def test_gathered_blocks_come_in_the_order_asked_for() -> None:
    cache = numbered_cache()
    blocks = gather_blocks(cache, [5, 0, 2])
    assert blocks.shape == (3, LAYERS, 2, BLOCK_SIZE, KV_HEADS, HEAD_DIM)
    assert blocks.is_contiguous()
    for row, block in enumerate([5, 0, 2]):
        assert torch.equal(blocks[row], cache[:, :, block])


def test_gathered_blocks_are_a_copy() -> None:
    cache = numbered_cache()
    blocks = gather_blocks(cache, list(range(BLOCKS)))
    kept = blocks.clone()
    cache.zero_()
    assert torch.equal(blocks, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("source", "target"), [([1], [6]), ([5, 0, 2], [3, 4, 0]), ([], [])])
def test_scatter_undoes_gather_and_touches_only_its_blocks(
    source: list[int], target: list[int], dtype: torch.dtype
) -> None:
    sender, receiver = numbered_cache(dtype), torch.full(SHAPE, 7.0, dtype=dtype)
    scatter_blocks(receiver, target, gather_blocks(sender, source))
    expected = torch.full(SHAPE, 7.0, dtype=dtype)
    for taken, put in zip(source, target, strict=True):
        expected[:, :, put] = sender[:, :, taken]
    assert torch.equal(receiver, expected)


@pytest.mark.parametrize("block", [-1, BLOCKS])
def test_a_block_that_the_cache_does_not_have_is_refused(block: int) -> None:
    cache = numbered_cache()
    blocks = gather_blocks(cache, [1, 2])
    with pytest.raises(IndexError, match="of a cache of 7"):
        gather_blocks(cache, [2, block])
    with pytest.raises(IndexError, match="of a cache of 7"):
        scatter_blocks(cache, [2, block], blocks)
    assert torch.equal(cache, numbered_cache())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copied_block_is_there_twice_and_the_rest_is_as_it_was(dtype: torch.dtype) -> None:
    cache = numbered_cache(dtype)
    expected = cache.clone()
    expected[:, :, 2] = expected[:, :, 5]
    copy_block(cache, 5, 2)
    assert torch.equal(cache, expected)


def test_nan_bits_survive_the_hand_off() -> None:
    cache = torch.full(SHAPE, float("nan"))
    receiver = torch.zeros(SHAPE)
    scatter_blocks(receiver, [0], gather_blocks(cache, [6]))
    assert receiver[:, :, 0].isnan().all()
    assert not receiver[:, :, 1:].isnan().any()
