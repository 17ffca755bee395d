"""A model of integers, for runners: it keeps tokens in the KV cache, and answers with a hash of all that it reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from radix.block_hash import BlockHasher
from radix.prefix_cache import PrefixCache
from workers.config import SchedulerConfig
from workers.engine.attention_metadata import AttentionMetadata
from workers.engine.block_pool import BlockPool
from workers.engine.engine import Engine
from workers.engine.kv_cache import KVCache
from workers.engine.kv_manager import KVManager
from workers.engine.runner import Runner

Works = dict[int, list[int]]
VOCAB_SIZE, BLOCK_SIZE, MAX_LEN, MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS = 61, 4, 64, 6, 24
EOS = frozenset({3})


class TensorWitness:
    """A model, and what plans its steps.

    Logits are random numbers from a seed that all tokens up to a row's own and their positions decide.

    Attributes:
        num_rooms: how many batch sizes room was made for.
        room_for: contexts longer than this do not fit into the room.
    """

    def __init__(self, room_for: int = MAX_LEN) -> None:
        self.room_for = room_for
        self.num_rooms = 0
        self.rows: list[int] = []  # of each step
        self.planned: list[list[int]] = []  # contexts of the steps that were planned for themselves

    def works(self, query_lens: Sequence[int], context_lens: Sequence[int], device: torch.device) -> Works:
        self.planned.append(list(context_lens))
        return {0: list(context_lens)}

    def decode_room(self, num_sequences: int, device: torch.device) -> Works:
        self.num_rooms += 1
        return {0: [0] * num_sequences}

    def fill(self, room: Mapping[int, Any], query_lens: Sequence[int], context_lens: Sequence[int]) -> bool:
        if max(context_lens) > self.room_for:
            return False
        room[0][:] = context_lens
        return True

    def forward(self, token_ids: torch.Tensor, metadata: AttentionMetadata, kv_cache: torch.Tensor) -> torch.Tensor:
        step = metadata.step
        assert step.works.get(0, step.context_lens.tolist()) == step.context_lens.tolist()
        self.rows.append(len(token_ids))
        keys = kv_cache.view(-1)
        for row, slot in enumerate(step.slot_mapping.tolist()):
            if slot >= 0:
                keys[slot] = token_ids[row] * 1000 + step.positions[row]
        logits = [self._logits(step, row, keys) for row in metadata.sample_rows.tolist()]
        return torch.stack(logits) if logits else torch.empty(0, VOCAB_SIZE)

    def _logits(self, step: Any, row: int, keys: torch.Tensor) -> torch.Tensor:
        sequence = int((step.query_starts <= row).sum()) - 1
        table = step.block_tables[sequence].tolist()
        length = int(step.positions[row]) + 1 if step.context_lens[sequence] else 0
        seed = 17
        for place in range(length):
            slot = table[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE
            seed = (seed * 1_000_003 + int(keys[slot])) % 2**61
        return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 2


def witness_cache(num_blocks: int) -> KVCache:
    return KVCache(1, num_blocks, BLOCK_SIZE, 1, 1, torch.int64, torch.device("cpu"))


def witness_engine(runner: Runner, num_blocks: int, memory: KVCache) -> Engine:
    hasher = BlockHasher("witness", b"secret", BLOCK_SIZE, VOCAB_SIZE)
    return Engine(
        runner,
        KVManager(BlockPool(num_blocks), PrefixCache(BLOCK_SIZE, hasher.root), memory, BLOCK_SIZE),
        SchedulerConfig(MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS),
        hasher=hasher,
        vocab_size=VOCAB_SIZE,
        max_model_len=MAX_LEN,
        eos_token_ids=EOS,
    )
