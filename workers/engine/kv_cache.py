"""The memory of the KV cache: one tensor for all layers and blocks."""

import torch

from kernels.kv_store import copy_block, gather_blocks, scatter_blocks


class KVCache:
    """Tensor [layers, 2, num_blocks, block_size, kv_heads, head_dim]; see `kernels.kv_store` for the layout."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim)
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool."""
        return self.tensor.shape[2]

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Shape of one block as it is handed off: [layers, 2, block_size, kv_heads, head_dim]."""
        layers, two, _, *rest = self.tensor.shape
        return (layers, two, *rest)

    def read_blocks(self, block_ids: list[int]) -> torch.Tensor:
        """Copy blocks out: [len(block_ids), *block_shape] on the CPU."""
        return gather_blocks(self.tensor, block_ids)

    def copy_block(self, source: int, target: int) -> None:
        """Copy one block's contents to another block, for a sequence that goes its own way from there."""
        copy_block(self.tensor, source, target)

    def write_blocks(self, block_ids: list[int], blocks: torch.Tensor) -> None:
        """Copy blocks in. Raises ValueError where their shape or dtype is not that of this cache."""
        if tuple(blocks.shape) != (len(block_ids), *self.block_shape) or blocks.dtype != self.tensor.dtype:
            raise ValueError(
                f"blocks of {blocks.dtype} {tuple(blocks.shape)} do not fit a cache of {self.tensor.dtype} "
                f"{(len(block_ids), *self.block_shape)}"
            )
        scatter_blocks(self.tensor, block_ids, blocks)
