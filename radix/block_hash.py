"""Keyed 64-bit hashes of token blocks, the same in every process and after every restart.

A block's hash commits to its own tokens, to all before it and to a namespace (which model, which tenant), under a
secret of the cluster. It is a multilinear hash of prefixes (universal hashing after Carter and Wegman, modulo 2**64),
so that numpy computes all blocks of a prompt at once and a next turn adds only its own:

    block_i = fold(sum over places j of number_of[token_ij] * place_j)        fold(x) = x ^ (x >> 32)
    hash_i  = hash_(i-1) + block_i * position_i                               hash_(-1) = the namespace's root hash

Numbers, places and positions come out of SHAKE-256 of the secret; places and positions are odd. Two prompts that were
chosen without the secret agree in a hash with a probability of some 2**-58. Whoever sees hashes can do better, so they
only find candidates: a worker compares the tokens before it shares KV (`PrefixCache.match`). A public mixing step after
the sums would cost 2 us and hide nothing.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 8
TOKEN_BYTES = 4
FIRST_POSITIONS = 1024
UINT32, FOLD, ONE = np.dtype("<u4"), np.uint64(32), np.uint64(1)
MASK = 2**64 - 1

Words = NDArray[np.uint64]


class HashState(NamedTuple):
    """Where a prompt's hashing stands: what to give `hash_blocks` with the tokens that follow.

    `BlockHasher.start` begins a prompt under a salt.
    """

    last_hash: int
    num_blocks: int = 0


class BlockHasher:
    """Hashes prompts of one namespace.

    It holds 8 bytes per token id and makes them once, in some milliseconds, so keep one per process.

    Args:
        namespace: names all that makes KV incomparable: model digest, quantisation, KV layout, adapter, tenant salt.
        secret: at most 64 bytes, the same on every node of the cluster.
        block_size: tokens per block.
        vocab_size: token ids are below it.

    Raises:
        ValueError: the secret is longer than 64 bytes.
    """

    def __init__(self, namespace: str, secret: bytes, block_size: int, vocab_size: int) -> None:
        self.root = root_hash(namespace, secret)
        self._namespace = namespace
        self.block_size = block_size
        self._secret = secret
        self._number_of = expand(secret, "tokens", vocab_size)
        self._places = expand(secret, "places", block_size) | ONE
        self._positions = self._make_positions(FIRST_POSITIONS)

    def start(self, salt: str) -> HashState:
        """The state before the first block of a prompt whose blocks only those with the same salt may share.

        Two salts begin at different places, and what is added on the way depends on the tokens alone: the same tokens
        never have the same hash under both.
        """
        return HashState(root_hash(f"{self._namespace}\0{salt}", self._secret) if salt else self.root)

    def hash_blocks(self, tokens: bytes | memoryview, state: HashState | None = None) -> tuple[list[int], HashState]:
        """The hashes of all full blocks of `tokens` (little-endian int32), and the state after them.

        Args:
            tokens: what follows the blocks of `state`; a partial block at the end has no hash and is left out.
            state: that of an earlier call for the same prompt; None at its beginning.

        Raises:
            ValueError: a token id is negative or not below the size of the vocabulary.
        """
        last_hash, first = state or (self.root, 0)
        num_blocks = len(tokens) // (self.block_size * TOKEN_BYTES)
        end = first + num_blocks
        if num_blocks == 0:
            return [], HashState(last_hash, first)
        if end > len(self._positions):
            self._positions = self._make_positions(2 * end)
        sums = self._blocks(np.frombuffer(tokens, UINT32, num_blocks * self.block_size))
        sums *= self._positions[first:end]
        sums[0] = (int(sums[0]) + last_hash) & MASK
        hashes: list[int] = np.add.accumulate(sums, out=sums).tolist()
        return hashes, HashState(hashes[-1], end)

    def _blocks(self, token_ids: NDArray[np.uint32]) -> Words:
        """Each block's own number."""
        try:
            numbers = self._number_of.take(token_ids)
        except IndexError as error:
            raise ValueError(f"token ids must be 0 to {len(self._number_of) - 1} to be hashed") from error
        blocks: Words = numbers.reshape(-1, self.block_size) @ self._places
        blocks ^= blocks >> FOLD
        return blocks

    def _make_positions(self, num_blocks: int) -> Words:
        """A factor for each block of a prompt. They are not the powers of one number: with those, whatever the number,
        two prompts of 1,024 blocks in a Thue-Morse pattern agree."""
        return expand(self._secret, "positions", num_blocks) | ONE


def root_hash(namespace: str, secret: bytes) -> int:
    """The hash that stands before block 0. Raises ValueError for a secret of more than 64 bytes."""
    return int.from_bytes(hashlib.blake2b(namespace.encode(), digest_size=HASH_BYTES, key=secret).digest(), "little")


def token_bytes(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian int32, the form in which they are hashed and compared.

    Raises OverflowError for an id that does not fit.
    """
    try:
        return struct.pack(f"<{len(tokens)}i", *tokens)
    except struct.error as error:
        raise OverflowError(f"a token id is no 32-bit integer: {error}") from error


def expand(secret: bytes, purpose: str, count: int) -> Words:
    """`count` numbers that only who knows the secret can tell; more of them begin with the same ones."""
    stream = hashlib.shake_256(purpose.encode() + b"\0" + secret).digest(count * HASH_BYTES)
    return np.frombuffer(stream, "<u8")
