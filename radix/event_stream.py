"""The sender's end of a worker's events: what a subscriber that has seen so much must be told next. No I/O.

A subscriber is a place in one ring of recent messages, which all subscribers share. One that falls behind the ring is
told so (None) and begins again with a snapshot, so a slow router costs a worker no memory. Times are in
seconds of the worker's own clock.
"""

from collections import deque
from collections.abc import Iterable

from radix.event_batch import EventBatch, Subscription
from radix.events import BlocksStored

HEARTBEAT_S = 0.5
RING_BYTES = 16 * 2**20
MESSAGE_BYTES = 2**16
PART_BLOCKS = 4096


class EventStream:
    """One life of one worker, batch by batch.

    Args:
        epoch: names this life.
        ring_bytes: how much of the recent past is kept, encoded; the newest batch is always kept.
    """

    def __init__(self, epoch: str, ring_bytes: int = RING_BYTES) -> None:
        self.epoch = epoch
        self.last_sequence = 0
        self._ring_bytes = ring_bytes
        self._ring: deque[bytes] = deque()
        self._size = 0

    def append(self, batch: EventBatch) -> None:
        """Take in the next batch. Where a number was left out, nobody can be told what is missing: all begin again."""
        if batch.sequence != self.last_sequence + 1:
            self._ring.clear()
            self._size = 0
        self.last_sequence = batch.sequence
        self._ring.append(batch.to_bytes())
        self._size += len(self._ring[-1])
        while self._size > self._ring_bytes and len(self._ring) > 1:
            self._size -= len(self._ring.popleft())

    def after(self, place: Subscription) -> tuple[bytes, Subscription] | None:
        """The next message for a subscriber at `place`, and its place after that.

        The message is empty where there is no news. None where only a snapshot can help: another life, or too long ago.
        """
        missing = self.last_sequence - place.sequence
        if place.epoch != self.epoch or missing > len(self._ring):
            return None
        size = 0
        taken: list[bytes] = []
        while missing > len(taken) and (not taken or size < MESSAGE_BYTES):
            taken.append(self._ring[len(taken) - missing])
            size += len(taken[-1])
        return b"".join(taken), Subscription(self.epoch, place.sequence + len(taken))

    def heartbeat(self, now_s: float) -> bytes:
        """Says how far the worker is, so that a subscriber notices what it lacks."""
        return EventBatch(self.epoch, self.last_sequence, now_s, []).to_bytes()


def still_here(now_s: float) -> bytes:
    """Says only that a snapshot is being made."""
    return EventBatch("", 0, now_s, []).to_bytes()


def snapshot_parts(
    epoch: str, sequence: int, now_s: float, held: Iterable[BlocksStored], part_blocks: int = PART_BLOCKS
) -> list[EventBatch]:
    """A snapshot in parts of about `part_blocks` blocks, so that neither end is held up for long by one message."""
    portions: list[list[BlocksStored]] = [[]]
    num_blocks = 0
    for event in held:
        if num_blocks >= part_blocks:
            portions.append([])
            num_blocks = 0
        portions[-1].append(event)
        num_blocks += len(event.hashes)
    return [EventBatch(epoch, sequence, now_s, part, at, len(portions)) for at, part in enumerate(portions)]
