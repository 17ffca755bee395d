"""A worker's process in the pools' simulation: its life from an empty cache to a crash, and what may befall it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from radix.event_batch import EventBatch
from tests.helpers import num_leaked_blocks
from tests.pool_simulation_engine import InjectedError, SimulatedDriver, witness_built
from tests.pool_simulation_network import Network
from tests.pool_simulation_world import World
from workers.async_worker import WorkerDiedError
from workers.pools.decode_worker import DecodeWorker
from workers.pools.handoff_shelf import HandoffShelf
from workers.pools.kv_handoff import KVHandoff
from workers.pools.prefill_worker import PrefillWorker
from workers.pools.services import DecodeService, Fetch, PrefillService
from workers.request import GenerationRequest, RequestOutput

ABORTED_WITHIN_S = 1.0
Publish = Callable[["Life", EventBatch], None]


class Life:
    """One life of one worker's process.

    Attributes:
        endpoint: its address, which the next life at this place has too.
        name: its own.
    """

    def __init__(self, world: World, network: Network, endpoint: str, number: int, publish: Publish) -> None:
        self.world, self.network = world, network
        self.endpoint, self.name = endpoint, f"{endpoint}/{number}"
        self.is_dead = self.has_vanished = self.is_frozen = self.is_leaving = False
        self.was_disturbed = False
        self._hang_s = 0.0
        self._fails_at_step = False
        self._publish = publish
        self._aborted_s: dict[str, float] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}  # in an order that is the same when it is replayed
        self.engine, self.built = witness_built(world.settings)

    def driven(self, worker: Any) -> SimulatedDriver[Any]:
        """Begin to step a worker."""
        return SimulatedDriver(worker, self._on_events, self._pause, self._check, self.world.errors.append)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.world.spawn(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    def abort(self, request_id: str) -> None:
        """What a front door says arrives; from then on nothing of the request is left for long."""
        self.service.abort(request_id)
        self._aborted_s.setdefault(request_id, self.world.loop.time())

    def crash(self, *, unheard: bool = False) -> None:
        """Everything in it ends at once; with `unheard` its machine does, and nobody is told."""
        self.is_dead, self.has_vanished = True, unheard
        self.driver.stop()
        for task in list(self._tasks):
            task.cancel()
        self.network.stir()

    def freeze(self) -> None:
        """As by SIGSTOP."""
        self.is_frozen = self.was_disturbed = True

    def thaw(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            self.network.stir()

    def recover(self) -> None:
        """From what still was to come."""
        self.thaw()
        self._hang_s, self._fails_at_step = 0.0, False

    def hang(self, seconds: float) -> None:
        """Let the next step take so long."""
        self._hang_s, self.was_disturbed = seconds, True

    def fail(self) -> None:
        """Let the next step raise an error."""
        self._fails_at_step = self.was_disturbed = True

    def leave(self) -> None:
        """As by SIGTERM: it takes nothing more, and is gone when all that waits has been fetched."""
        self.is_leaving = True
        for request_id in list(self.engine._sequences):
            self.driver.abort(request_id)

    @property
    def is_healthy(self) -> bool:
        try:
            self.driver.check_health()
        except WorkerDiedError:
            return False
        return True

    @property
    def leftovers(self) -> list[str]:
        """What a worker without requests should not have."""
        checks = {
            "streams": self.driver.num_streams,
            "requests": len(self.engine._sequences),
            "leaked blocks": num_leaked_blocks(self.engine),
            "tasks": len(self._tasks),
        }
        return [f"{self.name} has {count} {what}" for what, count in checks.items() if count]

    def _on_events(self, batch: EventBatch) -> None:
        self._publish(self, batch)

    def _check(self) -> None:
        self.engine.check_integrity()
        latest_s = self.world.loop.time() - ABORTED_WITHIN_S
        for request_id in self.engine._sequences:
            in_time = self._aborted_s.get(request_id, latest_s) >= latest_s
            assert in_time or self.was_disturbed, f"{self.name} goes on with {request_id}, which was aborted"

    async def _pause(self, has_work: bool) -> None:
        """A step's time."""
        if has_work:
            hang_s, self._hang_s = self._hang_s, 0.0
            await asyncio.sleep(hang_s + self.world.rng.uniform(0.5, 1.5) * self.world.settings.step_s)
        while self.is_frozen:
            await self.network.travel(self.name, self.name, self)
        if has_work and (self._fails_at_step or self._is_poisoned):
            self.world.log(f"{self.name} fails")
            self.world.seen["failed engines"] += 1
            self.was_disturbed = True
            raise InjectedError

    @property
    def _is_poisoned(self) -> bool:
        return any(request_id.startswith("poison") for request_id in self.engine._sequences)

    service: PrefillService | DecodeService
    driver: SimulatedDriver[Any]


class CountingShelf(HandoffShelf):
    """Counts the leases that end."""

    world: World

    def expire(self) -> None:
        before = len(self._waiting)
        super().expire()
        self.world.seen["expired leases"] += before - len(self._waiting)


class PrefillLife(Life):
    """Of a prefill worker."""

    def __init__(self, world: World, network: Network, endpoint: str, number: int, publish: Publish) -> None:
        super().__init__(world, network, endpoint, number, publish)
        self.worker = PrefillWorker(self.built)
        self.driver: SimulatedDriver[KVHandoff] = self.driven(self.worker)
        settings = world.settings
        self.shelf = CountingShelf(self.driver.epoch, settings.lease_s, settings.shelf_bytes, world.loop.time)
        self.shelf.world = world
        self.service: PrefillService = PrefillService(self.worker, self.driver, self.shelf, self)

    def start(self, request: GenerationRequest) -> AsyncGenerator[Any]:
        return self.service.prefill(request)

    @property
    def leftovers(self) -> list[str]:
        waiting = len(self.shelf) + self.shelf.num_bytes + len(self.worker._max_tokens)
        return super().leftovers + [f"{self.name} has KV that waits"] * bool(waiting)


class DecodeLife(Life):
    """Of a decode worker."""

    def __init__(
        self, world: World, network: Network, endpoint: str, number: int, publish: Publish, fetch: Fetch
    ) -> None:
        super().__init__(world, network, endpoint, number, publish)
        self.worker = DecodeWorker(self.built)
        self.driver: SimulatedDriver[RequestOutput] = self.driven(self.worker)
        self.service: DecodeService = DecodeService(self.worker, self.driver, fetch, self)
