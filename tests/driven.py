"""A witness engine behind an `AsyncWorker`, with handles to hold its steps back and to break it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing

from radix.event_batch import EventBatch
from radix.events import BlocksStored, CacheEvent
from tests.helpers import request_of
from tests.witness import WitnessEngine
from workers.async_worker import AsyncWorker
from workers.load import WorkerLoad
from workers.request import GenerationRequest, RequestOutput


class EngineWorker:
    """A witness engine, perhaps ahead, as a worker. Its steps wait for `may_step` and raise where `broken`."""

    def __init__(self, ahead: bool) -> None:
        self.engine = WitnessEngine(num_blocks=24, ahead=ahead)
        self.may_step = threading.Event()
        self.may_step.set()
        self.broken = False

    @property
    def has_work(self) -> bool:
        return self.engine.has_work

    def step(self) -> list[tuple[str, RequestOutput]]:
        self.may_step.wait(10)
        if self.broken:
            raise RuntimeError("the GPU fell off the bus")
        return [(output.request_id, output) for output in self.engine.step()]

    def abort(self, request_id: str) -> None:
        self.engine.abort(request_id)

    def take_events(self) -> list[CacheEvent]:
        return self.engine.take_events()

    def snapshot(self) -> list[BlocksStored]:
        return list(self.engine.kv.cache.snapshot())

    def load(self) -> WorkerLoad:
        return self.engine.load()


class Driven:
    """The worker, its driver, and the events that reached the loop. Made and stopped on the event loop."""

    def __init__(self, ahead: bool) -> None:
        self.worker = EngineWorker(ahead)
        self.batches: list[EventBatch] = []
        self.driver: AsyncWorker[RequestOutput] = AsyncWorker(self.worker, self.batches.append)

    def stream(self, request: GenerationRequest) -> AsyncGenerator[RequestOutput | None]:
        return self.driver.outputs(request.request_id, lambda: self.add(request))

    def add(self, request: GenerationRequest) -> None:
        self.worker.engine.add_request(request)

    async def tokens(self, request: GenerationRequest) -> list[int]:
        tokens: list[int] = []
        async with aclosing(self.stream(request)) as outputs:
            async for output in outputs:
                tokens += output.token_ids if output else ()
                if output and output.finish_reason is not None:
                    break
        return tokens

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait up to a second for something that the worker's thread sees."""
        for _ in range(200):
            if await self.driver.call(condition):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("not within a second")


def run(scenario: Callable[[Driven], Coroutine[None, None, None]], *, ahead: bool = False) -> None:
    """Run a scenario on a fresh worker; nothing may hang."""

    async def main() -> None:
        driven = Driven(ahead)
        try:
            await asyncio.wait_for(scenario(driven), 10)
        finally:
            driven.worker.may_step.set()
            driven.driver.stop()

    asyncio.run(main())


def requests(count: int, max_tokens: int = 12) -> list[GenerationRequest]:
    return [request_of(str(i), [i % 3, 5, 6, 7, 8, i], max_tokens, ignore_eos=True) for i in range(count)]
