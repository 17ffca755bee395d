"""Chained, keyed hashes of token blocks, the same in every process and after every restart.

A block's hash commits to its own tokens, to all before it and to a namespace (which model, which tenant), under a
secret of the cluster, so nobody without it can make two prompts collide. 64 bits find candidates; a worker still
compares the tokens before it shares KV (`PrefixCache.match`).
"""

import hashlib
from array import array
from collections.abc import Sequence

HASH_BYTES = 8
TOKEN_BYTES = 4


def root_hash(namespace: str, secret: bytes) -> int:
    """The hash that stands before block 0. `namespace` names all that makes KV incomparable: model digest,
    quantisation, KV dtype, tenant. `secret` is at most 64 bytes, the same on every node of the cluster."""
    return int.from_bytes(hashlib.blake2b(namespace.encode(), digest_size=HASH_BYTES, key=secret).digest(), "little")


def token_bytes(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian int32, the form in which they are hashed and compared."""
    return array("i", tokens).tobytes()


def hash_blocks(parent: int, tokens: bytes, block_size: int) -> list[int]:
    """Chain the hashes of all full blocks of `tokens` (int32 bytes) after `parent`; a partial tail has none."""
    hashes = []
    block_bytes = block_size * TOKEN_BYTES
    for end in range(block_bytes, len(tokens) + 1, block_bytes):
        block = tokens[end - block_bytes : end]
        digest = hashlib.blake2b(block, digest_size=HASH_BYTES, key=parent.to_bytes(HASH_BYTES, "little")).digest()
        parent = int.from_bytes(digest, "little")
        hashes.append(parent)
    return hashes
