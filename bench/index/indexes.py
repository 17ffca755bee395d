"""The indexes that are measured, each behind the same four methods.

`prepare` is not timed: it turns tokens into what the index takes, which for all but "raydix with hashing" are the
hashes of blocks. `insert` and `match` are timed; a match returns the deepest number of blocks that some worker holds.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from typing import Any, Protocol

import pygtrie

from bench.index.workload import NUM_WORKERS, VOCAB_SIZE, Tokens
from radix.block_hash import BlockHasher
from radix.prefix_index import PrefixIndex

WORKERS = [f"worker-{number}" for number in range(NUM_WORKERS)]
COARSE_STEP = 16


class Index(Protocol):
    """What is measured."""

    def prepare(self, prompt: Tokens) -> Any:
        """What `insert` and `match` take for a prompt."""

    def insert(self, key: Any, worker: int) -> None:
        """The worker holds all full blocks of the prompt."""

    def match(self, key: Any) -> int:
        """Leading blocks that the worker which holds most of them has."""


def new_hasher(block_size: int) -> BlockHasher:
    """The hashes that all indexes here are given."""
    return BlockHasher("bench", b"secret", block_size, VOCAB_SIZE)


class Raydix:
    """Ours, given hashes; a match finds the depth of every worker."""

    def __init__(self, block_size: int) -> None:
        self.hasher = new_hasher(block_size)
        self.index = PrefixIndex(self.hasher.root, max_bytes=2**40)

    def prepare(self, prompt: Tokens) -> list[int]:
        return self.hasher.hash_blocks(prompt.tobytes())[0]

    def insert(self, key: list[int], worker: int) -> None:
        self.index.insert(WORKERS[worker], key)

    def match(self, key: list[int]) -> int:
        return max(self.index.match(key).values(), default=0)


class RaydixWithHashing(Raydix):
    """Ours, given int32 tokens."""

    def prepare(self, prompt: Tokens) -> Any:
        return prompt.tobytes()

    def insert(self, key: Any, worker: int) -> None:
        super().insert(self.hasher.hash_blocks(key)[0], worker)

    def match(self, key: Any) -> int:
        return super().match(self.hasher.hash_blocks(key)[0])


class Walk:
    """pygtrie with a step for every block, inserted and matched in one descent each."""

    def __init__(self, block_size: int) -> None:
        self._hasher = new_hasher(block_size)
        self._trie = pygtrie.Trie()

    def prepare(self, prompt: Tokens) -> list[int]:
        return self._hasher.hash_blocks(prompt.tobytes())[0]

    def insert(self, key: list[int], worker: int) -> None:
        self._trie.setdefault(key, 0)
        steps = self._trie.walk_towards(key)
        next(steps)
        for step in steps:
            step.value = step.get(0) | 1 << worker

    def match(self, key: list[int]) -> int:
        found = self._trie.longest_prefix(key)
        return len(found.key) if found else 0


class Coarse(Walk):
    """pygtrie with a step for every sixteenth block, and a flat dictionary of all blocks for the rest."""

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size)
        self._holders: dict[int, int] = {}

    def insert(self, key: list[int], worker: int) -> None:
        coarse = key[COARSE_STEP - 1 :: COARSE_STEP]
        if coarse:
            super().insert(coarse, worker)
        holders, bit = self._holders, 1 << worker
        for block in key:
            holders[block] = holders.get(block, 0) | bit

    def match(self, key: list[int]) -> int:
        depth = super().match(key[COARSE_STEP - 1 :: COARSE_STEP]) * COARSE_STEP
        while depth < len(key) and key[depth] in self._holders:
            depth += 1
        return depth


class Dynamo:
    """Dynamo's tree in Rust (PyPI: ai-dynamo-runtime), given its own hashes and events, which are JSON in Python."""

    def __init__(self, block_size: int) -> None:
        from dynamo._core import RadixTree, compute_block_hash_for_seq

        self._block_size = block_size
        self._hash_tokens = compute_block_hash_for_seq
        self._hasher = new_hasher(block_size)
        self._tree = RadixTree()
        self._event_ids = count()

    def prepare(self, prompt: Tokens) -> tuple[list[int], bytes]:
        """Hashes of each block's tokens, which a match takes, and an event that stores the blocks."""
        local = self._hash_tokens(prompt.tolist(), self._block_size)
        chained, _ = self._hasher.hash_blocks(prompt.tobytes())
        blocks = [{"block_hash": block, "tokens_hash": tokens} for block, tokens in zip(chained, local, strict=True)]
        stored = {"stored": {"parent_hash": None, "blocks": blocks}}
        return local, json.dumps({"event_id": next(self._event_ids), "data": stored}).encode()

    def insert(self, key: tuple[list[int], bytes], worker: int) -> None:
        self._tree.apply_event(worker, key[1])

    def match(self, key: tuple[list[int], bytes]) -> int:
        depths: dict[Any, int] = self._tree.find_matches(key[0]).scores
        return max(depths.values(), default=0)


INDEXES: dict[str, Callable[[int], Index]] = {
    "raydix": Raydix,
    "raydix with hashing": RaydixWithHashing,
    "pygtrie, every block": Walk,
    "pygtrie, coarse": Coarse,
}
if find_spec("dynamo"):
    INDEXES["Dynamo"] = Dynamo
