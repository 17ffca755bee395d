"""Cache events from each worker to each router: one gRPC server stream per pair. What is sent, and what it means to the
index, is decided by `radix/event_stream.py` and `radix/event_receiver.py`; here are the sockets and the clocks."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import grpc

from cluster.worker_server import CHANNEL_OPTIONS, Context, WorkerServer, metadata_for
from radix.event_batch import EventBatch, Subscription, read_batches
from radix.event_receiver import EventReceiver
from radix.event_stream import HEARTBEAT_S, RING_BYTES, EventStream, still_here
from radix.prefix_index import PrefixIndex

logger = logging.getLogger(__name__)

SUBSCRIBE = "/raydix.CacheEvents/Subscribe"
LINGER_S = 0.005
RETRY_S = 0.2

Snapshot = Callable[[], Awaitable[list[EventBatch]]]


class EventPublisher:
    """The worker's end. Runs on one event loop.

    Args:
        server: where subscribers come; it may not have started yet.
        epoch: names this life of the worker, as its batches do.
        snapshot: gives all that the worker holds, in parts.
        ring_bytes: how much of the recent past is kept for subscribers that fall behind or come back.
    """

    def __init__(self, server: WorkerServer, epoch: str, snapshot: Snapshot, ring_bytes: int = RING_BYTES) -> None:
        self._news = asyncio.Event()
        self._stream = EventStream(epoch, ring_bytes)
        self._snapshot = snapshot
        server.add_stream(SUBSCRIBE, self._subscribe)

    def publish(self, batch: EventBatch) -> None:
        """Let every subscriber have the next batch."""
        self._stream.append(batch)
        self._news.set()
        self._news = asyncio.Event()

    async def _subscribe(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            place = Subscription.from_bytes(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if self._stream.after(place) is None:
            making = asyncio.ensure_future(self._snapshot())
            async for message in keep_alive_until(making):
                yield message
            for part in await making:
                yield part.to_bytes()
            place = Subscription(part.epoch, part.sequence)
        async for message in self._follow(place):
            yield message

    async def _follow(self, place: Subscription) -> AsyncIterator[bytes]:
        """All that happens from `place` on. Ends where the subscriber is too slow: it comes back for a snapshot."""
        yield self._stream.heartbeat(time.time())
        while (after := self._stream.after(place)) is not None:
            message, place = after
            if not message:
                message = await self._heartbeat_unless_news()
            if message:
                yield message

    async def _heartbeat_unless_news(self) -> bytes:
        """A heartbeat where nothing happens; nothing a moment after there is news, so a burst becomes one message."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._news.wait()
        except TimeoutError:
            return self._stream.heartbeat(time.time())
        await asyncio.sleep(LINGER_S)
        return b""


async def keep_alive_until(making: asyncio.Future[list[EventBatch]]) -> AsyncIterator[bytes]:
    """Say now and then that a snapshot is coming: a worker makes it between two steps, and a step may take seconds."""
    try:
        while not (await asyncio.wait([making], timeout=HEARTBEAT_S))[0]:
            yield still_here(time.time())
    finally:
        making.cancel()  # a subscriber that leaves needs none


class EventFollower:
    """The router's end: follows every worker of a pool and keeps one index. Runs on one event loop."""

    def __init__(self, index: PrefixIndex, token: str) -> None:
        self._index = index
        self._token = token
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._receivers: dict[str, EventReceiver] = {}

    def set_workers(self, endpoints: Mapping[str, str]) -> None:
        """Follow exactly these workers, given as name to endpoint; what others held is forgotten.

        A worker that has moved keeps what it held until it has been heard at its new endpoint.
        """
        wanted = set(endpoints.items())
        for gone in self._tasks.keys() - wanted:
            self._tasks.pop(gone).cancel()
        for worker in self._receivers.keys() - endpoints.keys():
            self._receivers.pop(worker).forget()
        for worker, endpoint in wanted - self._tasks.keys():
            receiver = self._receivers.setdefault(worker, EventReceiver(worker, self._index))
            task = asyncio.get_running_loop().create_task(self._follow(receiver, worker, endpoint))
            self._tasks[worker, endpoint] = task

    @property
    def endpoints(self) -> dict[str, str]:
        """Where each worker's own port is."""
        return dict(iter(self._tasks))

    def age_s(self, worker: str) -> float:
        """How old what the index knows of a worker is; infinite for one that was never heard."""
        receiver = self._receivers.get(worker)
        return float("inf") if receiver is None else receiver.age_s(asyncio.get_running_loop().time())

    async def _follow(self, receiver: EventReceiver, worker: str, endpoint: str) -> None:
        """Subscribe for ever. Between two subscriptions what is known of the worker stays, and grows old."""
        while True:
            try:
                await self._subscribe_once(receiver, endpoint)
            except Exception as error:  # whatever a worker sent or did not send: ask again
                logger.info("cache events of %s stopped, subscribing again: %s", worker, error)
            await asyncio.sleep(RETRY_S)

    async def _subscribe_once(self, receiver: EventReceiver, endpoint: str) -> None:
        """One stream, until it ends or the receiver gives it up (TimeoutError)."""
        clock = asyncio.get_running_loop().time
        async with (
            asyncio.timeout(None) as patience,
            grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS) as channel,
        ):
            place = receiver.subscribe(clock())
            call = channel.unary_stream(SUBSCRIBE)(place.to_bytes(), metadata=metadata_for(self._token))
            patience.reschedule(receiver.deadline_s())
            async for message in call:
                for batch in read_batches(message):
                    receiver.receive(batch, clock())
                patience.reschedule(receiver.deadline_s())
