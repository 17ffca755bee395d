"""Cache events from each worker to each router: a gRPC server stream of msgpack batches, a snapshot first.

The simple transport: a subscriber that misses anything subscribes again and gets a new snapshot.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import grpc

from radix.events import EventBatch
from radix.prefix_index import PrefixIndex

logger = logging.getLogger(__name__)

SERVICE, METHOD = "raydix.CacheEvents", "Subscribe"
TOKEN_KEY = "raydix-token"
MAX_QUEUED_BATCHES = 10_000
RETRY_S = 0.5
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class EventPublisher:
    """The worker's end. Only subscribers that know the cluster's token are served.

    Args:
        token: shared by all of the cluster.
        host: address to listen on; the port is chosen by the system.
    """

    def __init__(self, token: str, host: str) -> None:
        self._token = token
        self._host = host
        self._queues: set[asyncio.Queue[EventBatch]] = set()
        self._snapshot: Callable[[], Awaitable[EventBatch]] | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self, snapshot: Callable[[], Awaitable[EventBatch]]) -> str:
        """Listen, and return the endpoint `host:port` to subscribe at. `snapshot` gives all that the worker holds."""
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
        """Queue a batch for every subscriber; one that is too slow is cut off and will come back for a snapshot."""
        for queue in list(self._queues):
            if queue.qsize() >= MAX_QUEUED_BATCHES:
                self._queues.discard(queue)
            else:
                queue.put_nowait(batch)

    async def _subscribe(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        given = dict(context.invocation_metadata() or ()).get(TOKEN_KEY, "")
        if self._snapshot is None or not hmac.compare_digest(str(given).encode(), self._token.encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the cluster's token is wrong")
            return
        queue: asyncio.Queue[EventBatch] = asyncio.Queue()
        self._queues.add(queue)
        try:
            snapshot = await self._snapshot()
            yield snapshot.to_bytes()
            while queue in self._queues:
                batch = await queue.get()
                if batch.sequence > snapshot.sequence:  # the snapshot has the others
                    yield batch.to_bytes()
        finally:
            self._queues.discard(queue)


class EventFollower:
    """The router's end: follows every worker of a pool and keeps one index. Runs on one event loop."""

    def __init__(self, index: PrefixIndex, token: str) -> None:
        self._index = index
        self._token = token
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def set_workers(self, endpoints: Mapping[str, str]) -> None:
        """Follow exactly these workers, given as name to endpoint; what others held is forgotten."""
        wanted = set(endpoints.items())
        for gone in self._tasks.keys() - wanted:
            self._tasks.pop(gone).cancel()
        for worker, endpoint in wanted - self._tasks.keys():
            task = asyncio.get_running_loop().create_task(self._follow(worker, endpoint))
            self._tasks[worker, endpoint] = task

    async def _follow(self, worker: str, endpoint: str) -> None:
        """Subscribe for ever; between two subscriptions the worker counts as empty."""
        try:
            while True:
                try:
                    await self._subscribe_once(worker, endpoint)
                except Exception as error:  # whatever a worker sent: forget it and ask for a snapshot
                    logger.info("cache events of %s stopped, subscribing again: %s", worker, error)
                self._index.drop(worker)
                await asyncio.sleep(RETRY_S)
        finally:
            self._index.drop(worker)

    async def _subscribe_once(self, worker: str, endpoint: str) -> None:
        async with grpc.aio.insecure_channel(endpoint, options=UNLIMITED) as channel:
            call = channel.unary_stream(f"/{SERVICE}/{METHOD}")(b"", metadata=((TOKEN_KEY, self._token),))
            last = -1
            async for data in call:
                batch = EventBatch.from_bytes(data)
                if not batch.is_snapshot and batch.sequence != last + 1:
                    raise ValueError(f"batch {batch.sequence} came after {last}")
                last = batch.sequence
                self._apply(worker, batch)

    def _apply(self, worker: str, batch: EventBatch) -> None:
        if batch.is_snapshot:
            self._index.drop(worker)
        for event in batch.events:
            self._index.apply(worker, event)
