"""Numbers a worker's cache events, so that whoever follows them notices a gap."""

import time
import uuid
from typing import Protocol

from radix.event_batch import EventBatch
from radix.event_stream import snapshot_parts
from radix.events import BlocksStored, CacheEvent


class EventSource(Protocol):
    """A worker with a prefix cache."""

    def take_events(self) -> list[CacheEvent]:
        """Changes of the prefix cache since the last call."""

    def snapshot(self) -> list[BlocksStored]:
        """All that the prefix cache holds."""


class EventLog:
    """One life of one worker's events. Called on the thread that steps the worker.

    Attributes:
        epoch: the name of this life.
    """

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self.epoch = uuid.uuid4().hex
        self._sequence = 0

    def next_batch(self) -> EventBatch | None:
        """What changed since the last call; None where nothing did."""
        events = self._source.take_events()
        if not events:
            return None
        self._sequence += 1
        return EventBatch(self.epoch, self._sequence, time.time(), events)

    def snapshot(self) -> list[EventBatch]:
        """All that is held now, in parts. Call it between steps, when `next_batch` has taken every change before."""
        return snapshot_parts(self.epoch, self._sequence, time.time(), self._source.snapshot())
