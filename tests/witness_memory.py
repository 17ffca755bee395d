"""The memory of the witness model: every slot says which token at which position was written to it."""

from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from radix.block_hash import root_hash
from workers.engine.block_pool import BlockPool

ROOT = root_hash("witness", b"secret")
NUM_PLANES = 4  # K and V of two layers
POISON = -1


class WitnessMemory:
    """NUM_PLANES integers per slot (`workers.engine.kv_manager.BlockMemory`), position by position.

    What is done to it waits where `lazy`, each thing behind the one before, until `compute` gets to it.
    """

    def __init__(self, num_blocks: int, block_size: int, salt: int = ROOT, *, lazy: bool = False) -> None:
        self._lazy = lazy
        self._queue: deque[Callable[[], None]] = deque()
        self.block_size = block_size
        self.salt = salt
        self._per_block = block_size * NUM_PLANES
        self._numbers = array("q", [POISON]) * (num_blocks * self._per_block)
        self.seen: Counter[str] = Counter()

    def write_blocks(self, block_ids: list[int], blocks: torch.Tensor) -> None:
        self.seen["imports"] += bool(block_ids)
        for block, content in zip(block_ids, blocks.tolist(), strict=True):
            self.enqueue(partial(self._put, block, array("q", content)))

    def copy_block(self, source: int, target: int) -> None:
        self.seen["copies"] += 1
        self.enqueue(lambda: self._put(target, self.block(source)))

    def poison(self, block_ids: Sequence[int]) -> None:
        for block in block_ids:
            self.enqueue(partial(self._put, block, array("q", [POISON]) * self._per_block))

    def enqueue(self, operation: Callable[[], None]) -> None:
        self._queue.append(operation)
        if not self._lazy:
            self.compute()

    def compute(self, until: Callable[[], bool] = lambda: False) -> None:
        """Do what waits, as far as needed."""
        while self._queue and not until():
            self._queue.popleft()()

    def is_poisoned(self, block: int) -> bool:
        return self.block(block).count(POISON) == self._per_block

    def write(self, table: Sequence[int], position: int, token: int) -> None:
        """All planes of one token."""
        begin = (table[position // self.block_size] * self.block_size + position % self.block_size) * NUM_PLANES
        self._numbers[begin : begin + NUM_PLANES] = planes_of(token, position, self.salt)

    def read(self, table: Sequence[int], num_tokens: int) -> "array[int]":
        """The first `num_tokens` slots through a block table, as `kv_of` gives them."""
        content = array("q")
        for block in table[: -(-num_tokens // self.block_size)]:
            content += self.block(block)
        return content[: num_tokens * NUM_PLANES]

    def block(self, block: int) -> "array[int]":
        """A copy of one block."""
        return self._numbers[block * self._per_block : (block + 1) * self._per_block]

    def _put(self, block: int, content: "array[int]") -> None:
        self._numbers[block * self._per_block : (block + 1) * self._per_block] = content


class WitnessPool(BlockPool):
    """Poisons what is freed."""

    def __init__(self, num_blocks: int, memory: WitnessMemory) -> None:
        super().__init__(num_blocks)
        self._memory = memory

    def free(self, block_ids: list[int]) -> None:
        super().free(block_ids)
        self._memory.poison(block_ids)


@cache
def planes_of(token: int, position: int, salt: int = ROOT) -> "array[int]":
    """What one slot holds; different for every (token, position, plane, salt)."""
    return array("q", [(salt % 2**62) ^ (token << 40 | position << 8 | plane) for plane in range(NUM_PLANES)])


def kv_of(tokens: Sequence[int]) -> "array[int]":
    """What the slots of a sequence should hold."""
    content = array("q")
    for position, token in enumerate(tokens):
        content += planes_of(token, position)
    return content
