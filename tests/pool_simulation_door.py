"""A front door of the pools' simulation: real routers with an index that is right, empty, stale or full of lies."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, get_args

from cluster.door.failures import Loss, RequestFailures, WorkerLostError
from radix.event_batch import EventBatch
from radix.event_receiver import EventReceiver
from radix.prefix_index import PrefixIndex
from router.cost import CostModel, DecodeCost, PrefillCost
from router.expected import ExpectedPrefixes
from router.policies import make_policy
from router.request import RoutingRequest
from router.router import Router
from tests.pool_simulation_cluster import Cluster, PoolName
from tests.pool_simulation_network import Call
from tests.pool_simulation_worker import DecodeLife, Life, PrefillLife
from tests.pool_simulation_world import BLOCK_SIZE, World
from tests.witness_memory import ROOT
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, GenerationRequest, RequestOutput

NO_WORKER_TIMEOUT_S = 8.0
POLICIES = ("prefix", "prefix", "least_loaded", "power_of_two", "round_robin")


class PoolView:
    """What a door knows of one pool."""

    def __init__(self, world: World, pool: PoolName) -> None:
        self.world = world
        self.index = PrefixIndex(ROOT)
        self.receivers: dict[str, EventReceiver] = {}
        cost: CostModel = PrefillCost() if pool == "prefill" else DecodeCost(BLOCK_SIZE)
        policy = make_policy(world.rng.choice(POLICIES))  # type: ignore[arg-type]
        self.router = Router(self.index, ExpectedPrefixes(ROOT), policy, cost, BLOCK_SIZE, world.rng, self._age_s)

    def set_workers(self, names: list[str]) -> None:
        """The pool has exactly these workers."""
        self.router.set_workers(names)
        for gone in [name for name in self.receivers if name not in names]:
            self.receivers.pop(gone).forget()

    def receive(self, worker: str, batch: EventBatch) -> None:
        """A worker's cache has changed."""
        if worker not in self.router.table.states or self.world.settings.index != "events":
            return
        now_s = self.world.loop.time()
        if worker not in self.receivers:
            receiver = self.receivers[worker] = EventReceiver(worker, self.index)
            receiver.subscribe(now_s)
            receiver.receive(EventBatch(batch.epoch, 0, now_s, [], 0, 1), now_s)
        self.receivers[worker].receive(batch, now_s)

    def choose(self, request: GenerationRequest) -> str | None:
        """A worker; whom the router likes best."""
        num_tokens = len(request.prompt_token_ids)
        question = RoutingRequest(request.request_id, request.block_hashes, num_tokens, lost=request.lost)
        if self.world.settings.index == "lies" and self.router.table.names:
            self.index.insert(self.world.rng.choice(self.router.table.names), request.block_hashes)
        names = self.router.choose(question, self.world.loop.time())
        return names[0] if names else None

    def _age_s(self, worker: str) -> float:
        receiver = self.receivers.get(worker)
        return float("inf") if receiver is None else receiver.age_s(self.world.loop.time())


class Door:
    """The pools as the requests of one front door see them (`cluster.door.journey.Workers`).

    Attributes:
        num_deaths: that each request was told of.
        untold: attempts that were left early, though a worker had them, and that it was not told of.
    """

    def __init__(self, world: World, cluster: Cluster, name: str) -> None:
        self._world, self._cluster, self.name = world, cluster, name
        self.failures = RequestFailures(NO_WORKER_TIMEOUT_S, world.loop.time)
        self.failures._retries_left = world.settings.retries
        self.pools: dict[PoolName, PoolView] = {pool: PoolView(world, pool) for pool in get_args(PoolName)}
        self.num_deaths: Counter[str] = Counter()
        self.untold: set[str] = set()

    def refresh(self) -> None:
        """Learn which workers there are."""
        for pool, view in self.pools.items():
            view.set_workers(self._cluster.members(pool))

    def forget(self) -> None:
        """The routers begin again, and know nothing."""
        for pool in self.pools:
            self.pools[pool] = PoolView(self._world, pool)
        self.refresh()

    async def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        async with aclosing(self._call("prefill", request)) as items:
            async for item in items:
                yield item

    async def decode(
        self, request: GenerationRequest, prefilled: Prefilled | None
    ) -> AsyncGenerator[Beat | RequestOutput]:
        async with aclosing(self._call("decode", request, prefilled)) as items:
            async for item in items:
                yield item

    async def starts_at_decode(self, request: GenerationRequest) -> bool:
        return self._world.rng.random() < self._world.settings.starts_at_decode

    def abort(self, endpoint: str, request_id: str) -> None:
        """The message may be lost, come late, or twice."""
        self.untold.discard(request_id)
        if self._world.strikes(self._world.settings.lost_aborts):
            self._world.seen["lost aborts"] += 1
            return
        for _ in range(1 + self._world.strikes(0.2)):
            self._world.spawn(self._abort(endpoint, request_id))

    async def _abort(self, endpoint: str, request_id: str) -> None:
        life = self._cluster.lives[endpoint]
        if self._world.strikes(0.2):
            await asyncio.sleep(self._world.rng.uniform(0, 10))
        await self._cluster.network.travel(self.name, life.name, life)
        if not self._cluster.lives[endpoint].is_dead:
            self._world.seen["aborts"] += 1
            self._cluster.lives[endpoint].abort(request_id)

    async def _call(
        self, pool: PoolName, request: GenerationRequest, prefilled: Prefilled | None = None
    ) -> AsyncGenerator[Any]:
        view = self.pools[pool]
        name = view.choose(request)
        last: Any = None
        try:
            if name is None:
                raise WorkerLostError(Loss.UNREACHED)
            async with aclosing(self._items(self._cluster.by_name[name], request, prefilled)) as items:
                async for last in items:
                    yield last
        except WorkerLostError as lost:
            self.num_deaths[request.request_id.partition("#")[0]] += lost.loss is Loss.DIED
            self._world.log(f"{request.request_id} at {name}: {lost}")
            raise
        finally:
            if last is not None and not is_outcome(last):
                self.untold.add(request.request_id)
            view.router.settle(request.request_id, self._world.loop.time())

    def _items(self, life: Life, request: GenerationRequest, prefilled: Prefilled | None) -> AsyncGenerator[Any]:
        self._world.log(f"{request.request_id} to {life.name}")

        def start() -> AsyncGenerator[Any]:
            if isinstance(life, PrefillLife):
                return life.service.prefill(request)
            assert isinstance(life, DecodeLife)
            return life.service.decode(request, prefilled)

        return Call(self._world, self._cluster.network, self.name, life, start, lambda item: [item]).items()


def is_outcome(item: Beat | Prefilled | RequestOutput) -> bool:
    """Whether nothing comes after it."""
    return isinstance(item, Prefilled) or (isinstance(item, RequestOutput) and item.finish_reason is not None)
