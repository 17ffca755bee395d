"""A worker in a thread of its own, driven from asyncio: requests in, a stream of outputs per request out."""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from radix.event_batch import EventBatch
from workers.event_log import EventLog, EventSource
from workers.load import WorkerLoad
from workers.request import RequestError

logger = logging.getLogger(__name__)

DIED = "the worker's engine failed; its log has the reason"

Output = TypeVar("Output")
Result = TypeVar("Result")


class Worker(EventSource, Protocol[Output]):
    """What can be driven: `PrefillWorker`, `DecodeWorker`."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""

    def step(self) -> list[tuple[str, Output]]:
        """One step: outputs by request id."""

    def abort(self, request_id: str) -> None:
        """Drop a request; unknown ids are ignored."""

    def load(self) -> WorkerLoad:
        """What it has to do, for the routers of its pool."""


class WorkerDiedError(Exception):
    """The worker's thread ended on an error; every request in it is lost and it takes no more."""


@dataclass(frozen=True)
class Call:
    """A function to run on the worker's thread, and where its result goes."""

    function: Callable[[], Any]
    future: Future[Any]

    def run(self) -> None:
        """Run it, unless the caller has gone."""
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.function())
            except Exception as error:
                self.future.set_exception(error)

    def fail(self) -> None:
        """Refuse it: the worker has died."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(WorkerDiedError(DIED))


class AsyncWorker(Generic[Output]):
    """Steps a worker in a thread whenever it has work. All methods are called on one event loop.

    Args:
        worker: touched by the thread only.
        on_events: called on the event loop with each batch of changes to the prefix cache, in order.
    """

    def __init__(self, worker: Worker[Output], on_events: Callable[[EventBatch], None] | None = None) -> None:
        self._worker = worker
        self._event_log = EventLog(worker)
        self._on_events = on_events
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._streams: dict[str, asyncio.Queue[Output | BaseException]] = {}
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="raydix-worker", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run a function on the worker's thread between two steps. Raises what it raises, or WorkerDiedError."""
        call = Call(function, Future())
        self._calls.put(call)
        if self._error is not None:  # the thread may have emptied the queue for the last time before the put
            self._refuse_calls()
        result: Result = await asyncio.wrap_future(call.future)
        return result

    async def outputs(self, request_id: str, add: Callable[[], None]) -> AsyncGenerator[Output]:
        """Add a request by calling `add` on the worker's thread and yield its outputs.

        The caller stops at the last one, or earlier: closing the iterator aborts the request.
        """
        if request_id in self._streams:
            raise RequestError(f"a request with the id {request_id} is already running")
        stream: asyncio.Queue[Output | BaseException] = asyncio.Queue()
        self._streams[request_id] = stream
        try:
            await self.call(add)
            while True:
                output = await stream.get()
                if isinstance(output, BaseException):
                    raise WorkerDiedError(DIED) from output
                yield output
        finally:
            del self._streams[request_id]
            self._calls.put(Call(lambda: self._worker.abort(request_id), Future()))

    @property
    def epoch(self) -> str:
        """Names this life of the worker in its batches of events."""
        return self._event_log.epoch

    async def snapshot(self) -> list[EventBatch]:
        """All that the worker's prefix cache holds, in parts; batches given to `on_events` go on from its number."""
        return await self.call(self._event_log.snapshot)

    async def load(self) -> WorkerLoad:
        """The worker's load between two steps. Raises WorkerDiedError."""
        return await self.call(self._worker.load)

    def stop(self) -> None:
        """End the thread after its current step."""
        self._stopping = True
        self._calls.put(Call(lambda: None, Future()))
        self._thread.join()

    def check_health(self) -> None:
        """Raise WorkerDiedError where the thread has died."""
        if self._error is not None:
            raise WorkerDiedError(DIED) from self._error

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._serve_calls()
                self._publish(self._worker.step() if self._worker.has_work else [])
        except BaseException as error:
            logger.exception("the worker's engine failed")
            self._error = error
            self._refuse_calls()
            self._loop.call_soon_threadsafe(self._fail_streams, error)

    def _serve_calls(self) -> None:
        """Run what was asked for; with nothing to step, wait for the next call."""
        if not self._worker.has_work:
            self._calls.get().run()
        while not self._calls.empty():
            self._calls.get().run()

    def _refuse_calls(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait().fail()

    def _publish(self, outputs: list[tuple[str, Output]]) -> None:
        batch = self._event_log.next_batch()
        if (outputs or batch) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, outputs, batch)

    def _deliver(self, outputs: list[tuple[str, Output]], batch: EventBatch | None) -> None:
        for request_id, output in outputs:
            stream = self._streams.get(request_id)
            if stream is not None:  # else the client has just gone
                stream.put_nowait(output)
        if batch is not None and self._on_events is not None:
            self._on_events(batch)

    def _fail_streams(self, error: BaseException) -> None:
        for stream in self._streams.values():
            stream.put_nowait(error)
