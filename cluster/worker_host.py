"""What a replica of either pool is made of: a worker in its thread, its events on the wire, its health."""

import logging
import os
from dataclasses import dataclass
from typing import Generic, TypeVar

import ray
import torch

from cluster.event_relay import EventPublisher
from cluster.request_router import EVENTS_STAT, LOAD_STAT
from workers.async_worker import AsyncWorker, Worker
from workers.config import EngineConfig
from workers.engine.build import BuiltEngine, build_engine
from workers.weights.model_dir import resolve_model_dir

logger = logging.getLogger("ray.serve")

Output = TypeVar("Output")


@dataclass(frozen=True)
class WorkerSettings:
    """What a replica needs to make its worker.

    Attributes:
        model: directory or Hub id.
        secret: keys the block hashes, at most 64 bytes.
        token: admits routers to the event stream.
        events_host: address to publish cache events on; None for the node's own.
    """

    model: str
    engine: EngineConfig
    secret: bytes
    token: str
    events_host: str | None


class WorkerHost(Generic[Output]):
    """Runs one worker inside a Serve replica."""

    def __init__(self, worker: Worker[Output], settings: WorkerSettings) -> None:
        host = settings.events_host or ray.util.get_node_ip_address()
        self._publisher = EventPublisher(settings.token, host)
        self.worker = AsyncWorker(worker, self._publisher.publish)
        self._endpoint = ""

    async def start(self) -> None:
        """Begin to publish events."""
        self._endpoint = await self._publisher.start(self.worker.epoch, self.worker.snapshot)

    async def routing_stats(self) -> dict[str, object]:
        """What Serve passes to the routers of this pool. The load is read between two steps of the worker."""
        return {EVENTS_STAT: self._endpoint, LOAD_STAT: await self.worker.load()}


def load_engine(settings: WorkerSettings) -> BuiltEngine:
    """Load the model of a replica, with all of the machine's cores for it.

    Ray gives an actor one OpenMP thread per CPU it reserves; a prefill is compute-bound and wants them all.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    built = build_engine(resolve_model_dir(settings.model), settings.engine, settings.secret)
    tensor = built.kv_cache.tensor
    logger.info("model loaded on %s, KV pool of %d MiB: %s", tensor.device, tensor.nbytes >> 20, built.layout_id)
    return built
