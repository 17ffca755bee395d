"""A model made of integers, to prove that the engine never gives a wrong token.

Every KV slot stores which token at which position was written to it, for which layer, as K or as V, and under which
namespace; the next token is a hash of all that is read back through the block table. A stale, swapped, missing or
foreign block changes the tokens, exactly, and for certain. Free blocks are poisoned, so that reading one is an error.
"""

import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

import torch

from radix.block_hash import BlockHasher, root_hash
from radix.prefix_cache import PrefixCache
from workers.config import SchedulerConfig
from workers.engine.block_pool import BlockPool
from workers.engine.engine import Engine
from workers.engine.kv_manager import KVManager
from workers.engine.scheduler import ScheduledBatch, ScheduledSequence
from workers.engine.sequence import SequenceStatus
from workers.request import GenerationRequest, RequestOutput, SampledToken

VOCAB_SIZE = 32
EOS = 0
MAX_MODEL_LEN = 200
ROOT = root_hash("witness", b"secret")
NUM_PLANES = 4  # K and V of two layers
POISON = -1


class WitnessMemory:
    """NUM_PLANES integers per slot (`workers.engine.kv_manager.BlockMemory`), position by position."""

    def __init__(self, num_blocks: int, block_size: int, salt: int = ROOT) -> None:
        self.block_size = block_size
        self.salt = salt
        self._per_block = block_size * NUM_PLANES
        self._numbers = array("q", [POISON]) * (num_blocks * self._per_block)
        self.seen: Counter[str] = Counter()

    def write_blocks(self, block_ids: list[int], blocks: torch.Tensor) -> None:
        self.seen["imports"] += bool(block_ids)
        for block, content in zip(block_ids, blocks.tolist(), strict=True):
            self._put(block, array("q", content))

    def copy_block(self, source: int, target: int) -> None:
        self.seen["copies"] += 1
        self._put(target, self.block(source))

    def poison(self, block_ids: Sequence[int]) -> None:
        for block in block_ids:
            self._put(block, array("q", [POISON]) * self._per_block)

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


class WitnessRunner:
    """Writes and reads `WitnessMemory` (`workers.engine.engine.Runner`); `batches` records what was asked of it."""

    def __init__(self, memory: WitnessMemory) -> None:
        self._memory = memory
        self.batches: list[list[tuple[str, int]]] = []

    def run(self, batch: ScheduledBatch) -> list[SampledToken]:
        self.batches.append([(item.sequence.request.request_id, item.num_tokens) for item in batch.items])
        for item in batch.items:
            self._write(item)
        return [SampledToken(self._read(item)) for item in batch.items if item.samples]

    def _write(self, item: ScheduledSequence) -> None:
        sequence = item.sequence
        begin = sequence.num_computed_tokens
        assert item.num_tokens > 0, "there are no logits where no token is computed"
        for position in range(begin, begin + item.num_tokens):
            self._memory.write(sequence.block_table, position, sequence.token_ids[position])

    def _read(self, item: ScheduledSequence) -> int:
        content = self._memory.read(item.sequence.block_table, len(item.sequence.token_ids))
        assert POISON not in content, f"{item.sequence.request.request_id} reads a block that is free"
        return next_token(content, item.sequence.index)


class WitnessEngine(Engine):
    """An engine on a witness model, with its parts at hand; `seen` counts copies, imports and preemptions."""

    def __init__(
        self, num_blocks: int = 12, block_size: int = 4, max_num_seqs: int = 4, max_num_batched_tokens: int = 8
    ) -> None:
        self.memory = WitnessMemory(num_blocks, block_size)
        self.seen = self.memory.seen
        self.runner = WitnessRunner(self.memory)
        super().__init__(
            self.runner,
            KVManager(WitnessPool(num_blocks, self.memory), PrefixCache(block_size, ROOT), self.memory, block_size),
            SchedulerConfig(max_num_seqs, max_num_batched_tokens),
            hasher=hasher_of(block_size),
            vocab_size=VOCAB_SIZE,
            max_model_len=MAX_MODEL_LEN,
            eos_token_ids=frozenset({EOS}),
        )

    def step(self) -> list[RequestOutput]:
        """Counts preemptions too: what ran before the step and waits after it."""
        running = list(self._scheduler.running)
        outputs = super().step()
        self.seen["preemptions"] += sum(sequence.status is SequenceStatus.WAITING for sequence in running)
        return outputs

    def check_integrity(self) -> None:
        """The engine's own check, and a look into the memory: blocks hold what those who share them believe."""
        super().check_integrity()
        self._check_tables()
        self._check_tree()
        self._check_hashes()
        assert all(map(self.memory.is_poisoned, self.kv.pool.free_block_ids())), "a free block was written to"

    def _check_tables(self) -> None:
        for sequence in (sequence for completions in self._sequences.values() for sequence in completions):
            tokens = sequence.token_ids[: sequence.num_computed_tokens]
            assert self.memory.read(sequence.block_table, len(tokens)) == kv_of(tokens), "a table leads to other KV"

    def _check_tree(self) -> None:
        """From the root to each node, the blocks hold the KV of the tokens."""
        for node in self.kv.cache._tree.nodes():
            run = self.kv.cache.leased(node)
            tokens = array("i", run.tokens)
            assert self.memory.read(run.block_ids, len(tokens)) == kv_of(tokens), "the tree holds other KV"

    def _check_hashes(self) -> None:
        """All hashes of the tree are chained from this namespace's root over the tokens before them."""
        for node in self.kv.cache._tree.nodes():
            hashes = hashes_of(self.kv.cache.leased(node).tokens, self.memory.block_size)
            assert hashes[-len(node.hashes) :] == node.hashes.tolist(), "a block stands under another block's hash"


class WitnessBlocks:
    """The witness KV of a prompt, of which only the first `num_good` blocks arrive (`BlockSource`)."""

    def __init__(self, prompt: Sequence[int], block_size: int, num_good: int) -> None:
        padding = -len(prompt) % block_size * NUM_PLANES
        self._content = kv_of(prompt) + array("q", [POISON]) * padding
        self._block_size = block_size
        self._num_good = num_good
        self.num_tokens = len(prompt)

    def read_blocks(self, first_block: int) -> torch.Tensor:
        blocks = torch.tensor(self._content.tolist(), dtype=torch.int64).view(-1, self._block_size * NUM_PLANES)
        return blocks[first_block : max(first_block, self._num_good)]


@cache
def planes_of(token: int, position: int, salt: int = ROOT) -> "array[int]":
    """What one slot holds; different for every (token, position, plane, salt)."""
    return array("q", [(salt % 2**62) ^ (token << 40 | position << 8 | plane) for plane in range(NUM_PLANES)])


@lru_cache(maxsize=4096)
def hashes_of(tokens: bytes, block_size: int) -> list[int]:
    """The chained hashes of whole blocks of tokens."""
    return hasher_of(block_size).hash_blocks(tokens)[0]


@cache
def hasher_of(block_size: int) -> BlockHasher:
    """The witness's namespace under the witness's secret."""
    return BlockHasher("witness", b"secret", block_size, VOCAB_SIZE)


def kv_of(tokens: Sequence[int]) -> "array[int]":
    """What the slots of a sequence should hold."""
    content = array("q")
    for position, token in enumerate(tokens):
        content += planes_of(token, position)
    return content


def next_token(kv: "array[int]", index: int = 0) -> int:
    """The model: a hash of all it reads, another one for each completion of a request."""
    return zlib.crc32(kv.tobytes(), index) % VOCAB_SIZE


def expected_tokens(request: GenerationRequest, index: int = 0) -> list[int]:
    """A completion, computed without engine, blocks or cache."""
    prompt, sampling = request.prompt_token_ids, request.sampling
    crc = zlib.crc32(kv_of(prompt).tobytes(), index)
    output: list[int] = []
    while True:
        output.append(crc % VOCAB_SIZE)
        ended = (output[-1] == EOS and not sampling.ignore_eos) or output[-1] in sampling.stop_token_ids
        if (ended and len(output) >= sampling.min_tokens) or len(output) == sampling.max_tokens:
            return output
        crc = zlib.crc32(planes_of(output[-1], len(prompt) + len(output) - 1).tobytes(), crc)
