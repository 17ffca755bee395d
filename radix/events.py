"""What a worker tells the routers about its prefix cache: runs stored, runs removed, in numbered msgpack batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

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


@dataclass(frozen=True)
class EventBatch:
    """Events in the order they happened.

    Attributes:
        epoch: names one life of one worker.
        sequence: batches count one up; a snapshot has the number of the last batch that it includes.
        is_snapshot: the events are all that the worker holds and replace what was known of it.
        events: what happened since the batch before.
    """

    epoch: str
    sequence: int
    is_snapshot: bool
    events: Sequence[CacheEvent]

    def to_bytes(self) -> bytes:
        """As one message."""
        ops = [_to_op(event) for event in self.events]
        packed: bytes = msgpack.packb([self.epoch, self.sequence, self.is_snapshot, ops])
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> "EventBatch":
        """Raises ValueError for bytes that are no event batch."""
        try:
            epoch, sequence, is_snapshot, ops = msgpack.unpackb(data)
            events = [_from_op(*op) for op in ops]
        except (TypeError, ValueError, msgpack.UnpackException) as error:
            raise ValueError(f"not an event batch: {error}") from error
        types = (type(epoch), type(sequence), type(is_snapshot))
        if types != (str, int, bool) or sequence < 0:
            raise ValueError(f"not an event batch: it begins with {types}")
        return cls(epoch, sequence, is_snapshot, events)


def _to_op(event: CacheEvent) -> list[object]:
    if isinstance(event, BlocksStored):
        return [STORED, event.parent, list(event.hashes)]
    return [REMOVED, list(event.hashes)]


def _from_op(kind: Any, *fields: Any) -> CacheEvent:
    *parent, hashes = fields
    blocks = [*parent, *hashes]
    if not hashes or type(hashes) is not list or not all(type(b) is int and 0 <= b < HASH_LIMIT for b in blocks):
        raise ValueError("an operation names something that is no run of block hashes")
    if kind == STORED and len(parent) == 1:
        return BlocksStored(parent[0], hashes)
    if kind == REMOVED and not parent:
        return BlocksRemoved(hashes)
    raise ValueError(f"unknown operation {kind!r} with {len(fields)} fields")
