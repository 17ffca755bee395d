"""What goes over the wire from a worker to a router: numbered msgpack batches of cache events."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from radix.events import CacheEvent, from_op, to_op


@dataclass(frozen=True)
class EventBatch:
    """Events in the order they happened, a heartbeat (no events), or one part of a snapshot.

    On the wire `[epoch, sequence, sent_s, ops]`, and two numbers more where it is part of a snapshot.

    Attributes:
        epoch: names one life of one worker; empty where the worker only says that it is there.
        sequence: batches count one up; a heartbeat and a snapshot have the number of the last batch before them.
        sent_s: when it was made, in seconds of the worker's own clock.
        events: what happened since the batch before, or a part of all that the worker holds, parents first.
        part: which part of the snapshot.
        num_parts: how many parts the snapshot has; 0 for everything that is not a snapshot.
    """

    epoch: str
    sequence: int
    sent_s: float
    events: Sequence[CacheEvent]
    part: int = 0
    num_parts: int = 0

    @property
    def is_snapshot(self) -> bool:
        """Whether the events replace what was known of the worker, together with the other parts."""
        return self.num_parts > 0

    def to_bytes(self) -> bytes:
        """As a message, or a part of one: messages may be joined."""
        fields: list[object] = [self.epoch, self.sequence, self.sent_s, [to_op(event) for event in self.events]]
        packed: bytes = msgpack.packb(fields + [self.part, self.num_parts] * self.is_snapshot)
        return packed


@dataclass(frozen=True)
class Subscription:
    """What a router asks a worker for: everything after `sequence` of the life `epoch`, or a snapshot and what follows.

    The empty epoch is nobody's, so it asks for a snapshot.
    """

    epoch: str = ""
    sequence: int = 0

    def to_bytes(self) -> bytes:
        """As one message."""
        packed: bytes = msgpack.packb([self.epoch, self.sequence])
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> "Subscription":
        """Raises ValueError for bytes that are no subscription."""
        try:
            epoch, sequence = msgpack.unpackb(data)
        except (TypeError, ValueError, msgpack.UnpackException) as error:
            raise ValueError(f"not a subscription: {error}") from error
        if type(epoch) is not str or type(sequence) is not int or sequence < 0:
            raise ValueError("not a subscription: it must be an epoch and a sequence number")
        return cls(epoch, sequence)


def read_batches(message: bytes) -> list[EventBatch]:
    """The batches of a message. Raises ValueError for bytes that are not one or more whole event batches."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(message))
    batches: list[EventBatch] = []
    end = 0
    try:
        unpacker.feed(message)
        for fields in unpacker:
            batches.append(_from_fields(*fields))
            end = unpacker.tell()
    except (TypeError, ValueError, OverflowError, msgpack.UnpackException) as error:
        raise ValueError(f"not an event batch: {error}") from error
    if not batches or end != len(message):
        raise ValueError("not an event batch: the message ends in the middle of one")
    return batches


def _from_fields(epoch: Any, sequence: Any, sent_s: Any, ops: Any, part: Any = 0, num_parts: Any = 0) -> EventBatch:
    types = (type(epoch), type(sequence), type(sent_s), type(ops), type(part), type(num_parts))
    if types != (str, int, float, list, int, int) or not math.isfinite(sent_s):
        raise ValueError(f"its fields are {types}")
    if sequence < 0 or part < 0 or num_parts < 0 or part >= max(1, num_parts):
        raise ValueError(f"sequence number {sequence}, part {part} of {num_parts}")
    return EventBatch(epoch, sequence, sent_s, [from_op(op) for op in ops], part, num_parts)
