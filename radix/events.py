"""What a worker tells the routers about its prefix cache: runs stored, runs removed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STORED, REMOVED = 0, 1
HASH_LIMIT = 2**64


@dataclass(frozen=True)
class BlocksStored:
    """The worker now holds the run `hashes`, which follows the block `parent` (a root hash at depth 0)."""

    parent: int
    hashes: Sequence[int]


@dataclass(frozen=True)
class BlocksRemoved:
    """The worker no longer holds these blocks: runs, one after another, each of which ended at a leaf of its tree."""

    hashes: Sequence[int]


CacheEvent = BlocksStored | BlocksRemoved


def to_op(event: CacheEvent) -> list[object]:
    """As msgpack values."""
    if isinstance(event, BlocksStored):
        return [STORED, event.parent, list(event.hashes)]
    return [REMOVED, list(event.hashes)]


def from_op(op: Any) -> CacheEvent:
    """The event of `to_op`. Raises TypeError or ValueError for anything else."""
    kind, *parent, hashes = op
    blocks = [*parent, *hashes]
    if not hashes or type(hashes) is not list or not all(type(b) is int and 0 <= b < HASH_LIMIT for b in blocks):
        raise ValueError("an operation names something that is no run of block hashes")
    if kind == STORED and len(parent) == 1:
        return BlocksStored(parent[0], hashes)
    if kind == REMOVED and not parent:
        return BlocksRemoved(hashes)
    raise ValueError(f"unknown operation {kind!r} with {len(op)} fields")
