"""A worker in a thread of its own, driven from asyncio: requests in, a stream of outputs per request out."""

import asyncio
import contextlib
import logging
import math
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from radix.event_batch import EventBatch
from workers.event_log import EventLog, EventSource
from workers.load import WorkerLoad
from workers.request import RequestError

logger = logging.getLogger(__name__)

DIED = "the worker's engine failed; its log has the reason"
BEAT_S = 0.5
STEP_TIMEOUT_S = 8.0

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
    """The worker's thread ended on an error, or hangs in a step; every request in it is lost and it takes no more."""


class RequestAbortedError(Exception):
    """The request was ended by `abort`, and its stream with it."""


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
        step_timeout_s: a step that takes longer counts as hung.
    """

    def __init__(
        self,
        worker: Worker[Output],
        on_events: Callable[[EventBatch], None] | None = None,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        self._worker = worker
        self._event_log = EventLog(worker)
        self._on_events = on_events
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._streams: dict[str, asyncio.Queue[Output | BaseException]] = {}
        self._error: BaseException | None = None
        self._stopping = False
        self._busy_since_s = math.inf  # what the thread does now, it has been doing since; infinite where it waits
        self.step_timeout_s = step_timeout_s
        self._start()

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run a function on the worker's thread between two steps. Raises what it raises, or WorkerDiedError."""
        result: Result = await asyncio.wrap_future(self._submit(function))
        return result

    async def outputs(self, request_id: str, add: Callable[[], None]) -> AsyncGenerator[Output | None]:
        """Add a request by calling `add` on the worker's thread and yield its outputs.

        None is a sign of life: the first item is one, and every `BEAT_S` without an output brings another, as long as
        the engine makes progress. The caller stops at the last output, or earlier: closing the iterator aborts the
        request.

        Raises:
            RequestError: `add` does, or the id is in use.
            WorkerDiedError: the engine failed or hangs.
            RequestAbortedError: `abort` was called.
        """
        if request_id in self._streams:
            raise RequestError(f"a request with the id {request_id} is already running")
        stream: asyncio.Queue[Output | BaseException] = asyncio.Queue()
        self._streams[request_id] = stream
        try:
            self._submit(add).add_done_callback(lambda done: self._tell_refusal(stream, done))
            yield None
            while True:
                output = await self._next(stream)
                if isinstance(output, BaseException):
                    raise output
                yield output
        finally:
            del self._streams[request_id]
            self._submit(lambda: self._worker.abort(request_id))

    def abort(self, request_id: str) -> None:
        """End a request whose client has gone or whose time is over. Unknown ids are ignored."""
        self._submit(lambda: self._worker.abort(request_id))
        if request_id in self._streams:
            self._streams[request_id].put_nowait(RequestAbortedError())

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
        """Raise WorkerDiedError where the thread has died, or has been at one thing for too long."""
        if self._error is not None:
            raise WorkerDiedError(DIED) from self._error
        busy_s = self._loop.time() - self._busy_since_s
        if busy_s > self.step_timeout_s:
            raise WorkerDiedError(f"a step of the worker's engine has taken {busy_s:.1f} s and is not done")

    def _submit(self, function: Callable[[], Any]) -> Future[Any]:
        call = Call(function, Future())
        self._calls.put(call)
        if self._error is not None:  # the thread may have emptied the queue for the last time before the put
            self._refuse_calls()
        return call.future

    async def _next(self, stream: "asyncio.Queue[Output | BaseException]") -> Output | BaseException | None:
        """What comes next, or None after `BEAT_S` of nothing. Raises WorkerDiedError."""
        try:
            async with asyncio.timeout(BEAT_S):
                return await stream.get()
        except TimeoutError:
            self.check_health()
            return None

    def _tell_refusal(self, stream: "asyncio.Queue[Output | BaseException]", done: Future[Any]) -> None:
        """On the worker's thread: pass on what came of adding a request, if it failed."""
        error = None if done.cancelled() else done.exception()
        if error is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(stream.put_nowait, error)

    def _start(self) -> None:
        """Begin to step. A simulation steps on its event loop instead."""
        self._thread = threading.Thread(target=self._run, name="raydix-worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._serve_calls()
                self._busy_since_s = self._loop.time()
                self._publish(self._worker.step() if self._worker.has_work else [])
        except BaseException as error:
            logger.exception("the worker's engine failed")
            self._error = error
            self._refuse_calls()
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._fail_streams, partial(died_of, error))

    def _serve_calls(self) -> None:
        """Run what was asked for; with nothing to step, wait for the next call."""
        if not self._worker.has_work:
            self._busy_since_s = math.inf
            self._run_call(self._calls.get())
        while not self._calls.empty():
            self._run_call(self._calls.get())

    def _run_call(self, call: Call) -> None:
        self._busy_since_s = self._loop.time()
        call.run()

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

    def _fail_streams(self, make_error: Callable[[], Exception]) -> None:
        for stream in self._streams.values():
            stream.put_nowait(make_error())


def died_of(error: BaseException) -> WorkerDiedError:
    """What the streams of a worker are told of its engine's failure."""
    died = WorkerDiedError(DIED)
    died.__cause__ = error
    return died
