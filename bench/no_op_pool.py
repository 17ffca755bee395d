"""Pools of workers that compute nothing, on real Ray Serve: what is left is the price of the path and of the choice."""

import random
import time
from dataclasses import dataclass

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from cluster.event_relay import EventPublisher
from cluster.request_router import EVENTS_STAT, RadixRequestRouter
from cluster.worker_server import WorkerServer
from radix.event_batch import EventBatch
from radix.events import BlocksStored, CacheEvent
from radix.prefix_cache import PrefixCache
from workers.event_log import EventLog
from workers.request import GenerationRequest

ROOT, BLOCK_SIZE, TOKEN = 1, 16, "bench"
LOOPBACK = "127.0.0.1"
OURS = RequestRouterConfig(
    request_router_class=RadixRequestRouter,
    request_router_kwargs={
        "root": ROOT,
        "block_size": BLOCK_SIZE,
        "pool": "prefill",
        "policy": "prefix",
        "token": TOKEN,
        "model_name": "no-op",
    },
    request_routing_stats_period_s=0.5,
)


@dataclass(frozen=True)
class TextRequest(GenerationRequest):
    """A request with its text, which Ray's own prefix router needs to see."""

    prompt: str = ""


@dataclass(frozen=True)
class Served:
    """Which worker took a request and how many leading blocks of it were there already."""

    worker: int
    num_held_blocks: int


class TrivialRouter(RequestRouter):  # type: ignore[misc]
    """Takes any replica: the least that a router can do."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        return [[random.choice(candidate_replicas)]]


class NoOpWorker:
    """Keeps the prompts that it was sent in a real prefix cache, and publishes its events."""

    async def __init__(self) -> None:  # type: ignore[misc]
        self._name = random.getrandbits(32)
        self._cache = PrefixCache(BLOCK_SIZE, ROOT)
        self._num_blocks = 0
        self._log = EventLog(self)
        server = WorkerServer(TOKEN, LOOPBACK)
        self._publisher = EventPublisher(server, self._log.epoch, self._snapshot)
        self._endpoint = await server.start()

    def take_events(self) -> list[CacheEvent]:
        return self._cache.take_events()

    def snapshot(self) -> list[BlocksStored]:
        return list(self._cache.snapshot())

    async def _snapshot(self) -> list[EventBatch]:
        return self._log.snapshot()

    def record_routing_stats(self) -> dict[str, str]:
        """Where to follow the events."""
        return {EVENTS_STAT: self._endpoint}

    async def __call__(self, request: GenerationRequest) -> Served:
        hashes, tokens = list(request.block_hashes), bytes(4 * len(request.prompt_token_ids))
        match = self._cache.match(hashes, tokens)
        num_held = len(match.hashes)
        fresh = list(range(self._num_blocks, self._num_blocks + len(hashes) - num_held))
        self._num_blocks += len(fresh)
        lease = self._cache.acquire(match)
        if fresh:
            lease, _ = self._cache.extend(lease, hashes[num_held:], fresh, tokens[4 * BLOCK_SIZE * num_held :])
        self._cache.release(lease)
        if (batch := self._log.next_batch()) is not None:
            self._publisher.publish(batch)
        return Served(self._name, num_held)


class Prompts:
    """Prompts of 2,000 tokens: one of some prefixes of 1,536, and a tail of its own."""

    def __init__(self, rng: random.Random, num_groups: int) -> None:
        self._rng = rng
        self._prefixes = [tuple(rng.getrandbits(64) for _ in range(96)) for _ in range(num_groups)]
        self._texts = ["".join(rng.choices("abcdefgh ", k=6144)) for _ in range(num_groups)]
        self._count = 0

    def next(self) -> TextRequest:
        """A prompt of the next group in turn."""
        from workers.request import SamplingParams

        group, self._count = self._count % len(self._prefixes), self._count + 1
        hashes = self._prefixes[group] + tuple(self._rng.getrandbits(64) for _ in range(29))
        text = self._texts[group] + "".join(self._rng.choices("abcdefgh ", k=1856))
        name = f"{time.monotonic_ns()}-{self._count}"
        return TextRequest(name, (0,) * 2000, SamplingParams(), hashes, prompt=text)


def deploy(name: str, router: RequestRouterConfig) -> serve.handle.DeploymentHandle:
    """A pool of two workers behind a router."""
    deployment = serve.deployment(
        NoOpWorker,
        name=name,
        num_replicas=2,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        request_router_config=router,
    )
    return serve.run(deployment.bind(), name=name, route_prefix=None)
