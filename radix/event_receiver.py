"""The receiver's end of one worker's events: messages in any order in, the index kept up to date. No I/O.

The owner opens a stream (`subscribe`), feeds `receive` with what comes on it, and gives the stream up for a new one
when `deadline_s` has passed. Batches are applied strictly in order: what overtakes waits, and what does not come is
asked for again. An operation on a block that the index does not know (an orphan) means that something is missing which
no number tells of: nothing more is applied, and a snapshot, which has the orphan too, is asked for. A snapshot is built
up beside what is known and then takes its place at once, so a worker never counts as empty in between.
"""

import math
from dataclasses import dataclass, field

from radix.event_batch import EventBatch, Subscription
from radix.event_stream import HEARTBEAT_S
from radix.prefix_index import PrefixIndex, UnknownBlockError

SILENCE_S = 4 * HEARTBEAT_S
PATIENCE_S = 0.1
MAX_PARKED = 1024
CALM_PER_REPAIR = 4  # a worker that keeps sending what does not fit takes a fifth of the time, not all of it


@dataclass
class _Stream:
    """What came on one stream.

    Attributes:
        heard_s: when anything came last.
        lag_s: the shortest time that a message seemed to take; the difference of the clocks is in it.
        behind_since_s: since when what was sent, or announced, has not come; infinite while nothing is missing.
        parked: batches that overtook others, by number.
        parts: parts of the snapshot that overtook others, by number.
        snapshot: epoch, sequence and number of parts of the stream's snapshot, once there is one.
        next_part: how many of its parts are in.
        last_heard_of: the highest number of a batch that came or was announced.
        awaits_snapshot: batches do not help before there is a snapshot.
        is_orphaned: something did not fit; nothing on this stream can be used any more.
    """

    opened_s: float
    heard_s: float
    awaits_snapshot: bool
    lag_s: float = math.inf
    behind_since_s: float = math.inf
    parked: dict[int, EventBatch] = field(default_factory=dict)
    parts: dict[int, EventBatch] = field(default_factory=dict)
    snapshot: tuple[str, int, int] | None = None
    next_part: int = 0
    last_heard_of: int = -1
    is_orphaned: bool = False


class EventReceiver:
    """What one router knows of one worker. Times are in seconds of one clock that does not jump.

    Args:
        worker: its name in `index`. While a snapshot comes in, `index` also knows another name for it.
        max_parked: batches that may wait for others at once; what is refused is asked for again.

    Attributes:
        place: the life and the batch of the worker up to which the index has everything; empty before a snapshot.
        num_orphans: operations that did not fit, so far.
    """

    def __init__(self, worker: str, index: PrefixIndex, max_parked: int = MAX_PARKED) -> None:
        self._worker = worker
        self._max_parked = max_parked
        self._beside = f"{worker} (snapshot)"
        self._index = index
        self.place = Subscription()
        self._fresh_s = -math.inf
        self._calm_until_s = -math.inf
        self.num_orphans = 0
        self._stream = _Stream(0.0, 0.0, awaits_snapshot=True)

    @property
    def num_parked(self) -> int:
        """Batches that wait for others; at most `max_parked`."""
        return len(self._stream.parked) + len(self._stream.parts)

    def subscribe(self, now_s: float) -> Subscription:
        """Begin a new stream, and return what to ask the worker for. Nothing of an older stream may be fed any more."""
        self._index.drop(self._beside)
        self._stream = _Stream(now_s, now_s, awaits_snapshot=not self.place.epoch)
        return self.place

    def receive(self, batch: EventBatch, now_s: float) -> None:
        """Take in a batch of the current stream. Duplicates are harmless, and so is any order."""
        self._stream.heard_s = now_s
        self._stream.lag_s = min(self._stream.lag_s, now_s - batch.sent_s)
        if not batch.epoch or self._stream.is_orphaned:
            return
        before = self.place, self._stream.next_part
        if batch.is_snapshot:
            self._take_part(batch, now_s)
        else:
            self._take_batch(batch)
        self._apply_parked()
        if not self._is_behind:
            self._stream.behind_since_s = math.inf
            if self._stream.last_heard_of >= 0:
                self._fresh_s = max(self._fresh_s, batch.sent_s + self._stream.lag_s)
        elif self._stream.behind_since_s == math.inf or before != (self.place, self._stream.next_part):
            self._stream.behind_since_s = now_s

    def deadline_s(self) -> float:
        """When to subscribe again, should nothing more come: the stream is silent, or what is missing does not come."""
        if self._stream.is_orphaned:
            return self._calm_until_s
        return min(self._stream.heard_s + SILENCE_S, self._stream.behind_since_s + PATIENCE_S)

    def age_s(self, now_s: float) -> float:
        """How old what the index knows of the worker is; infinite before the first snapshot.

        The worker's clock need not agree with ours: the fastest message is taken to have come in no time.
        """
        return max(0.0, now_s - self._fresh_s)

    def forget(self) -> None:
        """The worker is gone, and all that it held."""
        self._index.drop(self._worker)
        self._index.drop(self._beside)
        self.place = Subscription()

    @property
    def _is_behind(self) -> bool:
        """Whether the worker has sent, or said that it has, what is not in the index.

        The batches of a stream are sent after its snapshot: until one is heard of, that may still be on its way.
        """
        heard_of = self._stream.last_heard_of
        return heard_of >= 0 if self._stream.awaits_snapshot else heard_of > self.place.sequence

    def _take_batch(self, batch: EventBatch) -> None:
        if batch.epoch != self.place.epoch:  # another life: only a snapshot says what it began with
            self._stream.awaits_snapshot = True
        self._stream.last_heard_of = max(self._stream.last_heard_of, batch.sequence)
        awaits = self._stream.awaits_snapshot
        is_new = awaits or batch.sequence > self.place.sequence
        if batch.events and is_new and self._has_room(not awaits and batch.sequence == self.place.sequence + 1):
            self._stream.parked[batch.sequence] = batch

    def _take_part(self, batch: EventBatch, now_s: float) -> None:
        """Take a part of the stream's snapshot, and put it in place where it was the last one missing."""
        name = (batch.epoch, batch.sequence, batch.num_parts)
        if self._stream.snapshot is None:
            self._stream.snapshot = name
        if (
            name != self._stream.snapshot
            or batch.part < self._stream.next_part
            or not self._has_room(batch.part == self._stream.next_part)
        ):
            return
        self._stream.parts[batch.part] = batch
        while (part := self._stream.parts.pop(self._stream.next_part, None)) is not None:
            if not self._apply(self._beside, part):
                self._calm_down(now_s)
                return
            self._stream.next_part += 1
        if self._stream.next_part == batch.num_parts:
            self._finish_snapshot(batch)
            self._calm_down(now_s)

    def _finish_snapshot(self, batch: EventBatch) -> None:
        self._index.replace(self._worker, self._beside)
        self.place = Subscription(batch.epoch, batch.sequence)
        self._stream.awaits_snapshot = False
        self._stream.last_heard_of = max(self._stream.last_heard_of, batch.sequence)
        self._stream.parked = {
            number: later for number, later in self._stream.parked.items() if number > batch.sequence
        }

    def _apply_parked(self) -> None:
        """Apply what is next in line for as long as it is there."""
        while not self._stream.awaits_snapshot and not self._stream.is_orphaned:
            batch = self._stream.parked.pop(self.place.sequence + 1, None)
            if batch is None or not self._apply(self._worker, batch):
                return
            self.place = Subscription(batch.epoch, batch.sequence)

    def _apply(self, worker: str, batch: EventBatch) -> bool:
        """Apply a batch. False where something in it has no place: nothing is applied then until a snapshot is here."""
        try:
            for event in batch.events:
                self._index.apply(worker, event)
        except UnknownBlockError:
            self.num_orphans += 1
            self._stream.is_orphaned = True
            self.place = Subscription()
        return not self._stream.is_orphaned

    def _calm_down(self, now_s: float) -> None:
        """After a snapshot, whole or not, leave time before another is asked for because something does not fit."""
        self._calm_until_s = now_s + CALM_PER_REPAIR * (now_s - self._stream.opened_s)

    def _has_room(self, is_next: bool) -> bool:
        """Whether a batch can be kept; what is next in line does not stay."""
        return is_next or self.num_parked < self._max_parked
