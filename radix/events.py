"""What a worker tells the routers about its prefix cache: runs stored, runs removed, all gone."""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

STORED, REMOVED, CLEARED = 0, 1, 2
HASH_LIMIT, HASH_BYTES = 2**64, 8
ANCHOR_STEP = 16  # events begin at a block this many deep, or a multiple: an index looks up only these


class BlocksStored(NamedTuple):
    """The worker now holds the run `hashes`, which follows the block `anchor`. Some of them it may have held before.

    Attributes:
        anchor: the hash of a block that it holds, or the namespace's root hash.
        depth: blocks up to and with the anchor: a multiple of `ANCHOR_STEP`, 0 for a root.
        hashes: all blocks after the anchor, up to the last new one (uint64).
    """

    anchor: int
    depth: int
    hashes: Sequence[int]

    @property
    def num_kept(self) -> int:
        """How many of the hashes the worker holds after the event: all."""
        return len(self.hashes)


class BlocksRemoved(NamedTuple):
    """The worker holds no more than the first `num_kept` of `hashes`; what else followed them is gone too.

    Anchor, depth and hashes are those of `BlocksStored`; the last hash is the last of the run that was removed.
    """

    anchor: int
    depth: int
    hashes: Sequence[int]
    num_kept: int


class NamespaceCleared(NamedTuple):
    """The worker holds nothing of a namespace any more; `root` is its root hash."""

    root: int


CacheEvent = BlocksStored | BlocksRemoved | NamespaceCleared


def to_op(event: CacheEvent) -> list[object]:
    """As msgpack takes it: `[kind, anchor, depth, hashes as little-endian uint64, num_kept]`, or `[kind, root]`."""
    if isinstance(event, NamespaceCleared):
        return [CLEARED, event.root]
    kind = STORED if isinstance(event, BlocksStored) else REMOVED
    return [kind, event.anchor, event.depth, array("Q", event.hashes).tobytes(), event.num_kept]


def from_op(op: Any) -> CacheEvent:
    """The event. Raises ValueError or TypeError for anything else than an operation."""
    if len(op) == 2 and op[0] == CLEARED:
        return NamespaceCleared(block_hash(op[1]))
    kind, anchor, depth, packed, num_kept = op
    if type(packed) is not bytes or not packed or len(packed) % HASH_BYTES:
        raise ValueError("an operation names something that is no run of block hashes")
    if type(depth) is not int or depth < 0 or depth % ANCHOR_STEP:
        raise ValueError(f"an operation begins {depth!r} blocks deep, which is no multiple of {ANCHOR_STEP}")
    hashes = array("Q", packed)
    if kind == STORED and num_kept == len(hashes):
        return BlocksStored(block_hash(anchor), depth, hashes)
    if kind == REMOVED and type(num_kept) is int and 0 <= num_kept < len(hashes):
        return BlocksRemoved(block_hash(anchor), depth, hashes, num_kept)
    raise ValueError(f"unknown operation {kind!r} that keeps {num_kept!r} of {len(hashes)} blocks")


def block_hash(value: Any) -> int:
    """The value, if it can be a hash. Raises ValueError for any other."""
    if type(value) is not int or not 0 <= value < HASH_LIMIT:
        raise ValueError(f"an operation names {value!r}, which is no block hash")
    return value
