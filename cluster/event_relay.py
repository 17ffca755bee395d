"""Cache events from each worker to each router: one gRPC server stream per pair. What is sent, and what it means to the
index, is decided by `radix/event_stream.py` and `radix/event_receiver.py`; here are the sockets and the clocks."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import grpc

from radix.event_batch import EventBatch, Subscription, read_batches
from radix.event_receiver import EventReceiver
from radix.event_stream import HEARTBEAT_S, RING_BYTES, EventStream, still_here
from radix.prefix_index import PrefixIndex

logger = logging.getLogger(__name__)

SERVICE, METHOD = "raydix.CacheEvents", "Subscribe"
TOKEN_KEY = "raydix-token"
LINGER_S = 0.005
RETRY_S = 0.2
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Snapshot = Callable[[], Awaitable[list[EventBatch]]]


class EventPublisher:
    """The worker's end. Only subscribers that know the cluster's token are served. Runs on one event loop.

    Args:
        token: shared by all of the cluster.
        host: address to listen on; the port is chosen by the system.
        ring_bytes: how much of the recent past is kept for subscribers that fall behind or come back.
    """

    def __init__(self, token: str, host: str, ring_bytes: int = RING_BYTES) -> None:
        self._token = token
        self._host = host
        self._ring_bytes = ring_bytes
        self._news = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self, epoch: str, snapshot: Snapshot) -> str:
        """Listen, and return the endpoint `host:port` to subscribe at.

        Args:
            epoch: names this life of the worker, as its batches do. Nothing may be published before.
            snapshot: gives all that the worker holds, in parts.
        """
        self._stream = EventStream(epoch, self._ring_bytes)
        self._snapshot = snapshot
        handlers = {METHOD: grpc.unary_stream_rpc_method_handler(self._subscribe)}
        self._server = grpc.aio.server(options=UNLIMITED)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = self._server.add_insecure_port(f"{self._host}:0")
        await self._server.start()
        return f"{self._host}:{port}"

    async def stop(self) -> None:
        """Cut every subscriber off and stop listening."""
        if self._server is not None:
            await self._server.stop(grace=None)

    def publish(self, batch: EventBatch) -> None:
        """Let every subscriber have the next batch."""
        self._stream.append(batch)
        self._news.set()
        self._news = asyncio.Event()

    async def _subscribe(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        given = dict(context.invocation_metadata() or ()).get(TOKEN_KEY, "")
        if not hmac.compare_digest(str(given).encode(), self._token.encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the cluster's token is wrong")
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
        async with asyncio.timeout(None) as patience, grpc.aio.insecure_channel(endpoint, options=UNLIMITED) as channel:
            place = receiver.subscribe(clock())
            metadata = ((TOKEN_KEY, self._token),)
            call = channel.unary_stream(f"/{SERVICE}/{METHOD}")(place.to_bytes(), metadata=metadata)
            patience.reschedule(receiver.deadline_s())
            async for message in call:
                for batch in read_batches(message):
                    receiver.receive(batch, clock())
                patience.reschedule(receiver.deadline_s())
