"""An event loop in virtual time: waiting takes no time, and the next timer is due at once. No threads, no sockets."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

BEGIN_S = 1000.0
MAX_ROUNDS = 400_000


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in the order in which it became so, then jumps to the next timer.

    Attributes:
        num_abandoned: async generators that were dropped without being closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now_s = BEGIN_S
        self._selector = self  # the base class asks `_selector.select` to wait
        self._rounds = 0
        self.num_abandoned = 0

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """Wait: nothing ever comes from outside."""
        self._rounds += 1
        assert timeout is not None, "all wait for each other"
        assert self._rounds < MAX_ROUNDS, "it goes round and round"
        self._now_s += timeout
        return []

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """All that are still to go off."""
        return [timer for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        """Wakes a loop that waits in another thread; here there is none."""

    def _asyncgen_finalizer_hook(self, generator: AsyncGenerator[Any, Any]) -> None:
        self.num_abandoned += 1
        super()._asyncgen_finalizer_hook(generator)  # type: ignore[misc]
