"""A witness engine as the workers of the pools expect one, and a driver that steps it in virtual time."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import torch

from radix.event_batch import EventBatch
from tests.pool_simulation_world import BLOCK_SIZE, Settings
from tests.witness import WitnessEngine
from tests.witness_memory import NUM_PLANES, WitnessMemory
from workers.async_worker import AsyncWorker, Worker, died_of
from workers.engine.build import BuiltEngine

Output = TypeVar("Output")


class InjectedError(Exception):
    """A fault of the schedule, inside a step."""


class WitnessKVCache:
    """The witness's memory with the face of a `KVCache`: blocks of int64, as many numbers as a block has."""

    def __init__(self, memory: WitnessMemory) -> None:
        self._memory = memory
        self.tensor = torch.empty(0, dtype=torch.int64)
        self.block_shape = (2, NUM_PLANES // 2, BLOCK_SIZE, 1, 1)

    def read_blocks(self, block_ids: list[int]) -> torch.Tensor:
        self._memory.compute()
        blocks = [self._memory.block(block).tolist() for block in block_ids]
        return torch.tensor(blocks, dtype=torch.int64).view(-1, *self.block_shape)

    def write_blocks(self, block_ids: list[int], blocks: torch.Tensor) -> None:
        self._memory.write_blocks(block_ids, blocks.flatten(1))

    def copy_block(self, source: int, target: int) -> None:
        self._memory.copy_block(source, target)


def witness_built(settings: Settings) -> tuple[WitnessEngine, BuiltEngine]:
    """An engine of this schedule, and what its worker is made of."""
    engine = WitnessEngine(settings.num_blocks, BLOCK_SIZE, ahead=settings.ahead)
    cache = WitnessKVCache(engine.memory)
    engine.kv._memory = cache
    return engine, cast(BuiltEngine, SimpleNamespace(engine=engine, kv_cache=cache, layout_id="witness"))


class SimulatedDriver(AsyncWorker[Output]):
    """Steps on the event loop, where the real one has a thread.

    Args:
        pause: passes the time of a step; raises InjectedError where the step is to fail.
        check: looks at the worker after a step.
        fail: is told of an error that was not injected.
    """

    def __init__(
        self,
        worker: Worker[Output],
        on_events: Callable[[EventBatch], None],
        pause: Callable[[bool], Awaitable[None]],
        check: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._pause, self._check, self._fail = pause, check, fail
        self._news = asyncio.Event()
        super().__init__(worker, on_events)

    @property
    def num_streams(self) -> int:
        """Requests whose outputs are being read."""
        return len(self._streams)

    def stop(self) -> None:
        self._stepping.cancel()

    def _start(self) -> None:
        self._stepping = self._loop.create_task(self._step_on_loop())

    def _submit(self, function: Callable[[], Any]) -> Future[Any]:
        future = super()._submit(function)
        self._news.set()
        return future

    async def _step_on_loop(self) -> None:
        """As `AsyncWorker._run`."""
        try:
            while True:
                await self._wait_for_work()
                self._serve_calls()
                self._busy_since_s = self._loop.time()
                await self._pause(self._worker.has_work)
                self._publish(self._worker.step() if self._worker.has_work else [])
                self._check()
        except Exception as error:
            if not isinstance(error, InjectedError):
                self._fail(error)
            self._error = error
            self._refuse_calls()
            self._loop.call_soon_threadsafe(self._fail_streams, partial(died_of, error))

    async def _wait_for_work(self) -> None:
        while not self._worker.has_work and self._calls.empty():
            self._busy_since_s = math.inf
            self._news.clear()
            await self._news.wait()
