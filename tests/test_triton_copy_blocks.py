"""Whole blocks in and out of a cache, in Triton."""

import pytest
import torch

from kernels import kv_store
from kernels.triton_ops.copy_blocks import CHUNK, gather_blocks, scatter_blocks
from tests.triton_device import DEVICE

LAYERS, BLOCKS = 2, 7
# Bytes of a block's K of one layer in float16: 60 and 258 (no multiple of 16), 4096, more than a program moves.
PARTS = [(3, 2, 5), (3, 1, 43), (16, 2, 64), (16, 3, 96)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def noise_cache(part: tuple[int, int, int], dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Random bits, NaN and infinity among them."""
    size = (LAYERS, 2, BLOCKS, *part[:2], part[2] * dtype.itemsize)
    bits = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return bits.view(dtype).to(DEVICE)


def bits_of(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_blocks_come_out_in_the_order_asked_for(part: tuple[int, int, int], dtype: torch.dtype) -> None:
    cache, ids = noise_cache(part, dtype), torch.tensor([5, 0, 2], device=DEVICE)
    blocks = gather_blocks(cache, ids)
    assert blocks.dtype == dtype
    assert torch.equal(bits_of(blocks), bits_of(cache[:, :, ids].permute(2, 0, 1, 3, 4, 5)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_blocks_go_in_and_touch_no_others(part: tuple[int, int, int], dtype: torch.dtype) -> None:
    sender, receiver = noise_cache(part, dtype), torch.full_like(noise_cache(part, dtype), 7.0)
    expected = receiver.clone()
    expected[:, :, [6, 1]] = sender[:, :, [0, 4]]
    blocks = gather_blocks(sender, torch.tensor([0, 4], device=DEVICE))
    scatter_blocks(receiver, torch.tensor([6, 1], device=DEVICE), blocks)
    assert torch.equal(bits_of(receiver), bits_of(expected))


def test_no_block_is_no_work() -> None:
    cache, nothing = noise_cache(PARTS[0]), torch.empty(0, dtype=torch.int64, device=DEVICE)
    before = cache.clone()
    scatter_blocks(cache, nothing, gather_blocks(cache, nothing))
    assert torch.equal(bits_of(cache), bits_of(before))


def test_blocks_of_another_layout_are_refused() -> None:
    cache, ids = noise_cache(PARTS[0]), torch.tensor([1], device=DEVICE)
    blocks = gather_blocks(cache, ids)
    for wrong in (blocks[:, :1], blocks.float(), blocks.expand(2, -1, -1, -1, -1, -1)):
        with pytest.raises(ValueError, match="do not fit 1 of a cache"):
            scatter_blocks(cache, ids, wrong)
    with pytest.raises(ValueError, match="contiguous"):
        gather_blocks(cache.transpose(0, 1), ids)


def test_the_sizes_above_are_what_they_are_said_to_be() -> None:
    assert [2 * size * heads * dim for size, heads, dim in PARTS] == [60, 258, 4096, 9216]
    assert CHUNK < 9216


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_hand_off_between_a_gpu_and_the_host(part: tuple[int, int, int]) -> None:
    sender, receiver = noise_cache(part), torch.zeros_like(noise_cache(part))
    on_host = kv_store.gather_blocks(sender, [5, 0, 2])
    assert (on_host.device.type, on_host.is_pinned()) == ("cpu", True)
    assert torch.equal(bits_of(on_host), bits_of(sender.cpu()[:, :, [5, 0, 2]].permute(2, 0, 1, 3, 4, 5)))
    kv_store.scatter_blocks(receiver, [1, 2, 3], on_host)
    assert torch.equal(bits_of(receiver[:, :, [1, 2, 3]]), bits_of(sender[:, :, [5, 0, 2]]))
    assert not bits_of(receiver[:, :, [0, 4, 5, 6]]).any()


@pytest.mark.gpu
def test_a_cache_beyond_two_to_the_31_bytes() -> None:
    cache = torch.zeros(2, 2, 70_000, 16, 8, 128, dtype=torch.bfloat16, device=DEVICE)
    blocks = torch.ones(1, 2, 2, 16, 8, 128, dtype=torch.bfloat16, device=DEVICE)
    last = torch.tensor([69_999], device=DEVICE)
    scatter_blocks(cache, last, blocks)
    assert torch.equal(gather_blocks(cache, last), blocks)
    assert cache.sum(dtype=torch.float64) == blocks.numel()
