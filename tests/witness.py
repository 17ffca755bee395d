"""A model made of integers, to prove that the engine never gives a wrong token.

Every KV slot stores which token at which position was written to it, for which layer, as K or as V, and under which
namespace; the next token is a hash of all that is read back through the block table. A stale, swapped, missing or
foreign block changes the tokens, exactly, and for certain. Free blocks are poisoned, so that reading one is an error.

Where it runs ahead it is as lazy as a slow device: all that is done to the memory stands in one queue, and is done when
tokens are collected that come after it, or when a check looks.
"""

import zlib
from array import array
from collections.abc import Sequence
from functools import cache, lru_cache

import torch

from radix.block_hash import BlockHasher
from radix.prefix_cache import PrefixCache
from tests.helpers import request_of
from tests.witness_memory import NUM_PLANES, POISON, ROOT, WitnessMemory, WitnessPool, kv_of, planes_of
from tests.witness_runner import VOCAB_SIZE, WitnessRunner
from workers.config import SchedulerConfig
from workers.engine.engine import Engine
from workers.engine.kv_manager import KVManager
from workers.engine.sequence import SequenceStatus
from workers.request import GenerationRequest, RequestOutput

EOS = 0
MAX_MODEL_LEN = 200


class WitnessEngine(Engine):
    """An engine on a witness model, with its parts at hand; `seen` counts what happens to its sequences.

    Args:
        ahead: whether the runner runs ahead.
        shares_prefixes: whether blocks are published in the cache.
    """

    def __init__(
        self,
        num_blocks: int = 12,
        block_size: int = 4,
        max_num_seqs: int = 4,
        max_num_batched_tokens: int = 8,
        *,
        ahead: bool = False,
        shares_prefixes: bool = True,
    ) -> None:
        self.memory = WitnessMemory(num_blocks, block_size, lazy=ahead)
        self.seen = self.memory.seen
        self.runner = WitnessRunner(self.memory, ahead=ahead)
        super().__init__(
            self.runner,
            KVManager(
                WitnessPool(num_blocks, self.memory),
                PrefixCache(block_size, ROOT),
                self.memory,
                block_size,
                shares_prefixes=shares_prefixes,
            ),
            SchedulerConfig(max_num_seqs, max_num_batched_tokens),
            hasher=hasher_of(block_size),
            vocab_size=VOCAB_SIZE,
            max_model_len=MAX_MODEL_LEN,
            eos_token_ids=frozenset({EOS}),
        )

    def step(self) -> list[RequestOutput]:
        """Counts preemptions, some of them with a token in flight, ends with one in flight, and waits for one."""
        running = list(self._scheduler.running)
        flying = [sequence for sequence in running if sequence.rows_in_flight]
        self.seen["waits"] += sum(sequence.num_ready_tokens == 0 for sequence in flying if not sequence.runs_ahead)
        outputs = super().step()
        self.seen["preemptions"] += sum(sequence.status is SequenceStatus.WAITING for sequence in running)
        self.seen["preemptions in flight"] += sum(sequence.status is SequenceStatus.WAITING for sequence in flying)
        over = [sequence for sequence in flying if sequence.status is SequenceStatus.FINISHED]
        self.seen["ends in flight"] += sum(bool(sequence.rows_in_flight) for sequence in over)
        return outputs

    def check_integrity(self) -> None:
        """The engine's own check, and a look into the memory: blocks hold what those who share them believe."""
        super().check_integrity()
        self._check_hashes()
        self.seen["checks"] += 1
        if not self._in_flight or self.seen["checks"] % 3 == 0:  # looking has the batch in flight computed
            self._check_memory()

    def _check_memory(self) -> None:
        self.memory.compute()
        self._check_tables()
        self._check_tree()
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


@lru_cache(maxsize=4096)
def hashes_of(tokens: bytes, block_size: int) -> list[int]:
    """The chained hashes of whole blocks of tokens."""
    return hasher_of(block_size).hash_blocks(tokens)[0]


@cache
def hasher_of(block_size: int) -> BlockHasher:
    """The witness's namespace under the witness's secret."""
    return BlockHasher("witness", b"secret", block_size, VOCAB_SIZE)


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


def request_that_ends_after(num_tokens: int, name: str = "early") -> GenerationRequest:
    """A request for 24 tokens whose completion ends sooner, at an end-of-sequence token."""
    requests = (request_of(name, [a, b, 3], 24) for a in range(1, VOCAB_SIZE) for b in range(1, VOCAB_SIZE))
    return next(request for request in requests if len(expected_tokens(request)) == num_tokens)
