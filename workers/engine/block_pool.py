"""Which blocks of the KV cache are free."""


class BlockPool:
    """Physical block ids 0 to num_blocks - 1. Knows only free or not; who holds a block, the KV manager knows."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_free = [True] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can give out."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks. Raises ValueError where fewer are free: ask `num_free` first."""
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} free")
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._is_free[block] = False
        return taken

    def free(self, block_ids: list[int]) -> None:
        """Give blocks back. Raises ValueError for a block that is free already."""
        for block in block_ids:
            if self._is_free[block]:
                raise ValueError(f"block {block} is freed twice")
            self._is_free[block] = True
            self._free.append(block)

    def free_block_ids(self) -> list[int]:
        """The free blocks, for integrity checks. Raises AssertionError where the two records of them differ."""
        if sorted(self._free) != [block for block, is_free in enumerate(self._is_free) if is_free]:
            raise AssertionError("the list of free blocks and their marks differ")
        return list(self._free)
