"""Movement of K and V: into the cache by slot while computing, whole blocks in and out for a hand-off, or copied.

A cache tensor is [layers, 2, num_blocks, block_size, kv_heads, head_dim]: 0 is K and 1 is V. Slot s is position
s % block_size of block s // block_size.
"""

import torch


def write_kv(layer_cache: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slot_mapping: torch.Tensor) -> None:
    """Store k and v [tokens, kv_heads, head_dim] at `slot_mapping` (int64 [tokens]) of one layer's cache, in place."""
    slots = layer_cache.view(2, -1, *layer_cache.shape[3:])  # a view or an error: a copy would lose the write
    slots[0].index_copy_(0, slot_mapping, k)
    slots[1].index_copy_(0, slot_mapping, v)


def gather_blocks(cache: torch.Tensor, block_ids: list[int]) -> torch.Tensor:
    """Copy whole blocks out: [len(block_ids), layers, 2, block_size, kv_heads, head_dim], contiguous on the CPU.

    Raises IndexError for a block that the cache does not have.
    """
    ids = _ids_on_device(cache, block_ids)
    if not cache.is_cuda:
        return cache.index_select(2, ids).permute(2, 0, 1, 3, 4, 5).contiguous()
    from kernels.triton_ops import copy_blocks

    blocks = copy_blocks.gather_blocks(cache, ids)
    return torch.empty(blocks.shape, dtype=blocks.dtype, pin_memory=True).copy_(blocks)  # waits for what it copies


def scatter_blocks(cache: torch.Tensor, block_ids: list[int], blocks: torch.Tensor) -> None:
    """Undo `gather_blocks`: write `blocks` into the cache at `block_ids`, in place.

    On a GPU it does not wait for the copy; work launched later on the same stream finds it done. Raises IndexError for
    a block that the cache does not have.
    """
    ids = _ids_on_device(cache, block_ids)
    if not cache.is_cuda:
        cache.index_copy_(2, ids, blocks.to(cache.device).permute(1, 2, 0, 3, 4, 5))
        return
    from kernels.triton_ops import copy_blocks

    copy_blocks.scatter_blocks(cache, ids, _on_device(cache, blocks.contiguous()))


def copy_block(cache: torch.Tensor, source: int, target: int) -> None:
    """Write the contents of block `source` to block `target` as well, in all layers, in place."""
    cache.select(2, target).copy_(cache.select(2, source))


def _ids_on_device(cache: torch.Tensor, block_ids: list[int]) -> torch.Tensor:
    """int64 on the cache's device; a kernel cannot raise, so they are checked here."""
    ids = torch.tensor(block_ids, dtype=torch.int64)
    if block_ids and not 0 <= min(block_ids) <= max(block_ids) < cache.shape[2]:
        raise IndexError(f"blocks {min(block_ids)} to {max(block_ids)} of a cache of {cache.shape[2]}")
    return _on_device(cache, ids)


def _on_device(cache: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`x` where the cache is: through pinned memory, so that the host need not wait for the copy."""
    if not cache.is_cuda or x.is_cuda:
        return x.to(cache.device)
    return x.pin_memory().to(cache.device, non_blocking=True)
