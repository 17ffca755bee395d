"""Numbers a worker's cache events, so that whoever follows them notices a gap."""

import uuid
from typing import Protocol

from radix.events import BlocksStored, CacheEvent, EventBatch


class EventSource(Protocol):
    """A worker with a prefix cache."""

    def take_events(self) -> list[CacheEvent]:
        """Changes of the prefix cache since the last call."""

    def snapshot(self) -> list[BlocksStored]:
        """All that the prefix cache holds."""


class EventLog:
    """One life of one worker's events. Called on the thread that steps the worker."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._epoch = uuid.uuid4().hex
        self._sequence = 0

    def next_batch(self) -> EventBatch | None:
        """What changed since the last call; None where nothing did."""
        events = self._source.take_events()
        if not events:
            return None
        self._sequence += 1
        return EventBatch(self._epoch, self._sequence, False, events)

    def snapshot(self) -> EventBatch:
        """All that is held now. Call it between steps, when `next_batch` has taken every change before."""
        return EventBatch(self._epoch, self._sequence, True, self._source.snapshot())
