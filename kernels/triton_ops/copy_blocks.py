"""Whole blocks of the KV cache, out and in for a hand-off: one launch, all layers, 16 bytes an access."""

import torch
import triton
import triton.language as tl

CHUNK = 8192  # bytes that a program moves: four accesses of each of its 128 threads


@triton.jit
def copy_blocks_kernel(
    cache: tl.tensor, block_ids: tl.tensor, blocks: tl.tensor, num_blocks: int, PART: tl.constexpr, CHUNK: tl.constexpr,
    INTO_CACHE: tl.constexpr,
) -> None:  # fmt: skip
    """`CHUNK` bytes of one part of one block, either way; a part is a block's K or V of one layer, `PART` bytes.

    The cache is uint8 [parts, num_blocks, PART], the blocks are uint8 [block_ids, parts, PART].
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    places = tl.program_id(2) * CHUNK + tl.arange(0, CHUNK)
    mask = places < PART
    in_cache = cache + (part * num_blocks + tl.load(block_ids + row)) * PART + places
    in_blocks = blocks + (row * tl.num_programs(1) + part) * PART + places
    if INTO_CACHE:
        tl.store(in_cache, tl.load(in_blocks, mask=mask), mask=mask)
    else:
        tl.store(in_blocks, tl.load(in_cache, mask=mask), mask=mask)


def gather_blocks(cache: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
    """Copy blocks out of a cache.

    Args:
        cache: [layers, 2, num_blocks, block_size, kv_heads, head_dim], contiguous, of any dtype.
        block_ids: int64 [n] on the cache's device, each below num_blocks.

    Returns:
        [n, layers, 2, block_size, kv_heads, head_dim] on that device.

    Raises:
        ValueError: the cache is not contiguous.
    """
    layers, two, _, *rest = cache.shape
    blocks = torch.empty(len(block_ids), layers, two, *rest, dtype=cache.dtype, device=cache.device)
    _copy(cache, block_ids, blocks, into_cache=False)
    return blocks


def scatter_blocks(cache: torch.Tensor, block_ids: torch.Tensor, blocks: torch.Tensor) -> None:
    """Undo `gather_blocks`: write `blocks` into the cache, in place; no block is named twice.

    Raises:
        ValueError: one of the two is not contiguous, or the blocks are not the cache's.
    """
    layers, two, _, *rest = cache.shape
    if blocks.shape != (len(block_ids), layers, two, *rest) or blocks.dtype != cache.dtype:
        raise ValueError(
            f"blocks of {blocks.dtype} {tuple(blocks.shape)} do not fit {len(block_ids)} of a cache of {cache.dtype} "
            f"{tuple(cache.shape)}"
        )
    _copy(cache, block_ids, blocks, into_cache=True)


def _copy(cache: torch.Tensor, block_ids: torch.Tensor, blocks: torch.Tensor, *, into_cache: bool) -> None:
    if not cache.is_contiguous() or not blocks.is_contiguous():
        raise ValueError("the cache and the blocks must be contiguous")
    if not blocks.numel():
        return
    num_parts, part = cache.shape[0] * cache.shape[1], cache[0, 0, 0].nbytes
    grid = (len(block_ids), num_parts, triton.cdiv(part, CHUNK))
    copy_blocks_kernel[grid](
        cache.view(torch.uint8), block_ids, blocks.view(torch.uint8), cache.shape[2],
        PART=part, CHUNK=CHUNK, INTO_CACHE=into_cache, num_warps=4,
    )  # fmt: skip
