"""A model made of integers, to prove that the engine never gives a wrong token.

Every KV slot stores which token at which position was written to it, and the next token is a hash of all that is read
back through the block table. A stale, swapped, missing or foreign block changes the tokens, exactly, and for certain.
"""

import zlib
from array import array
from collections.abc import Sequence

import torch

from radix.block_hash import root_hash
from radix.prefix_cache import PrefixCache
from workers.config import SchedulerConfig
from workers.engine.block_pool import BlockPool
from workers.engine.engine import Engine
from workers.engine.kv_manager import KVManager
from workers.engine.scheduler import ScheduledBatch, ScheduledSequence
from workers.request import GenerationRequest, SampledToken

VOCAB_SIZE = 32
EOS = 0
MAX_MODEL_LEN = 200
ROOT = root_hash("witness", b"secret")


class WitnessMemory:
    """One integer per slot (`workers.engine.kv_manager.BlockMemory`)."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.slots = [-1] * (num_blocks * block_size)

    def write_blocks(self, block_ids: list[int], blocks: torch.Tensor) -> None:
        for block, content in zip(block_ids, blocks.tolist(), strict=True):
            self.slots[block * self.block_size : (block + 1) * self.block_size] = content

    def slot(self, table: Sequence[int], position: int) -> int:
        return table[position // self.block_size] * self.block_size + position % self.block_size

    def read(self, table: Sequence[int], num_tokens: int) -> list[int]:
        """The first `num_tokens` slots through a block table."""
        return [self.slots[self.slot(table, position)] for position in range(num_tokens)]


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
        for position in range(begin, begin + item.num_tokens):
            slot = self._memory.slot(sequence.block_table, position)
            self._memory.slots[slot] = mix(sequence.token_ids[position], position)

    def _read(self, item: ScheduledSequence) -> int:
        return next_token(self._memory.read(item.sequence.block_table, len(item.sequence.token_ids)))


class WitnessEngine(Engine):
    """An engine on a witness model, with its parts at hand."""

    def __init__(
        self, num_blocks: int = 12, block_size: int = 4, max_num_seqs: int = 4, max_num_batched_tokens: int = 8
    ) -> None:
        self.memory = WitnessMemory(num_blocks, block_size)
        self.runner = WitnessRunner(self.memory)
        super().__init__(
            self.runner,
            KVManager(BlockPool(num_blocks), PrefixCache(block_size, ROOT), self.memory, block_size),
            SchedulerConfig(max_num_seqs, max_num_batched_tokens),
            root_hash=ROOT,
            block_size=block_size,
            vocab_size=VOCAB_SIZE,
            max_model_len=MAX_MODEL_LEN,
            eos_token_ids=frozenset({EOS}),
        )


class WitnessBlocks:
    """The witness KV of a prompt, of which only the first `num_good` blocks arrive (`BlockSource`)."""

    def __init__(self, prompt: Sequence[int], block_size: int, num_good: int) -> None:
        self._content = kv_of(prompt) + [-1] * (-len(prompt) % block_size)
        self._block_size = block_size
        self._num_good = num_good
        self.num_tokens = len(prompt)

    def read_blocks(self, first_block: int) -> torch.Tensor:
        blocks = torch.tensor(self._content, dtype=torch.int64).view(-1, self._block_size)
        return blocks[first_block : max(first_block, self._num_good)]


def mix(token: int, position: int) -> int:
    """What one slot holds; different for every (token, position)."""
    return token << 32 | position


def kv_of(tokens: Sequence[int]) -> list[int]:
    """What the slots of a sequence should hold."""
    return [mix(token, position) for position, token in enumerate(tokens)]


def next_token(kv: Sequence[int]) -> int:
    """The model: a hash of all it reads."""
    return zlib.crc32(array("q", kv).tobytes()) % VOCAB_SIZE


def expected_tokens(request: GenerationRequest) -> list[int]:
    """The completion, computed without engine, blocks or cache."""
    tokens, sampling = list(request.prompt_token_ids), request.sampling
    while True:
        tokens.append(next_token(kv_of(tokens)))
        output = tokens[len(request.prompt_token_ids) :]
        ended = (tokens[-1] == EOS and not sampling.ignore_eos) or tokens[-1] in sampling.stop_token_ids
        if (ended and len(output) >= sampling.min_tokens) or len(output) == sampling.max_tokens:
            return output
