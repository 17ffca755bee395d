"""The network of the pools' simulation: calls with streams as answers, and single messages, both with their faults."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Protocol

from cluster.door.failures import Loss, WorkerLostError
from tests.pool_simulation_world import World
from workers.async_worker import RequestAbortedError, WorkerDiedError

END, NOTHING = object(), object()
Mangle = Callable[[Any], list[Any]]


class Host(Protocol):
    """A life of a process as the network sees it."""

    name: str
    is_dead: bool
    has_vanished: bool  # and nobody says so
    is_frozen: bool

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have something done by that process, for as long as it lives."""


class Network:
    """Who reaches whom, and how long it takes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._blocked: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()

    def block(self, source: str, target: str) -> None:
        """Let nothing through in this direction."""
        self._blocked.add((source, target))

    def heal(self) -> None:
        """Let everything through."""
        self._blocked.clear()
        self.stir()

    def stir(self) -> None:
        """What waits looks again: a process has thawed or died."""
        self._changed.set()
        self._changed = asyncio.Event()

    def latency_s(self) -> float:
        """How long a message takes."""
        if self._world.strikes(self._world.settings.slow_messages):
            self._world.seen["slow messages"] += 1
            return self._world.rng.uniform(0.1, 5.0)
        return self._world.rng.uniform(0.1, 1.0) * self._world.settings.latency_s

    async def travel(self, source: str, target: str, host: Host, since_s: float | None = None) -> None:
        """Return when a message has come to or from a host; it waits at a closed way and at a frozen host."""
        now_s = self._world.loop.time()
        await asyncio.sleep((now_s if since_s is None else since_s) + self.latency_s() - now_s)
        while not host.is_dead and (host.is_frozen or (source, target) in self._blocked):
            await self._changed.wait()


class Call:
    """A call to a process, answered by a stream.

    Args:
        caller: its name in the network.
        start: makes the stream, at the host.
        mangle: what the network makes of an item.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        caller: str,
        host: Host,
        start: Callable[[], AsyncGenerator[Any]],
        mangle: Mangle,
    ) -> None:
        self._world, self._network, self._caller, self._host = world, network, caller, host
        self._start, self._mangle = start, mangle
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._outbox: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()
        self._serving: asyncio.Task[None] | None = None
        self._is_closed = False
        self._is_cancelled = False

    async def items(self) -> AsyncGenerator[Any]:
        """What comes; at last an error, or the end. Closing it cancels the call, unless that message is lost."""
        self._world.spawn(self._deliver())
        try:
            while (item := await self._inbox.get()) is not END:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._is_closed = True
            if self._world.strikes(self._world.settings.lost_cancellations):
                self._world.seen["lost cancellations"] += 1
            else:
                self._world.spawn(self._cancel())

    async def _deliver(self) -> None:
        await self._network.travel(self._caller, self._host.name, self._host)
        if self._is_cancelled:
            return
        if self._host.is_dead:
            self._inbox.put_nowait(WorkerLostError(Loss.UNREACHED))
            return
        self._serving = self._host.spawn(self._serve())
        self._serving.add_done_callback(lambda _: self._send(self._last_word()))
        self._world.spawn(self._carry())

    async def _serve(self) -> None:
        """At the host."""
        try:
            async with aclosing(self._start()) as stream:
                async for item in stream:
                    self._send(item)
            self._send(END)
        except Exception as error:
            self._send(lost_by(error))

    def _last_word(self) -> Any:
        """What the caller hears at the end, unless it was told how the stream ended."""
        if self._host.is_dead:
            return NOTHING if self._host.has_vanished else WorkerLostError(Loss.DIED)
        return END

    def _send(self, item: Any) -> None:
        self._outbox.put_nowait((self._world.loop.time(), item))

    async def _carry(self) -> None:
        """Items in order, until the stream ends or breaks."""
        while True:
            sent_s, item = await self._outbox.get()
            await self._network.travel(self._host.name, self._caller, self._host, sent_s)
            if item is not NOTHING:
                self._arrive(item)
            if item is END or item is NOTHING or isinstance(item, Exception):
                return
            if self._world.strikes(self._world.settings.stream_faults):
                self._break()
                return

    def _arrive(self, item: Any) -> None:
        if item is END or isinstance(item, Exception):
            self._inbox.put_nowait(item)
            return
        if self._is_closed:
            self._world.seen["items for nobody"] += 1
        for arriving in self._mangle(item):
            self._inbox.put_nowait(arriving)

    def _break(self) -> None:
        """Nothing more comes: with an error, with an end that is none, or without a word."""
        kind = self._world.rng.choice(("broken", "truncated", "stalled"))
        self._world.seen[f"{kind} streams"] += 1
        self._world.log(f"{self._caller} from {self._host.name}: {kind}")
        if kind == "broken":
            self._inbox.put_nowait(WorkerLostError(Loss.DIED))
        elif kind == "truncated":
            self._inbox.put_nowait(END)
        if self._serving is not None and self._world.rng.random() < 0.3:
            self._serving.cancel()

    async def _cancel(self) -> None:
        await self._network.travel(self._caller, self._host.name, self._host)
        self._is_cancelled = True
        if self._serving is not None:
            self._serving.cancel()


def lost_by(error: Exception) -> Exception:
    """What the caller is told of an error at the host; as `cluster.pools.loss_of`."""
    match error:
        case RequestAbortedError():
            return WorkerLostError(Loss.LEFT)
        case WorkerDiedError():
            return WorkerLostError(Loss.DIED)
    return error
