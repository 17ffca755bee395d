"""What a replica of either pool is made of: a worker in its thread, its own port, its events, its health."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import ray
import torch

from cluster.event_relay import EventPublisher
from cluster.kv_transfer import ABORT, RESET
from cluster.replica_port import keep_on_loopback
from cluster.request_router import EVENTS_STAT, LOAD_STAT
from cluster.telemetry.ray_metrics import RaySink, replica_name
from cluster.telemetry.serve_logging import join_serve_log
from cluster.telemetry.worker_metrics import WorkerMetrics
from cluster.worker_server import Context, WorkerServer
from radix.event_batch import EventBatch
from workers.async_worker import AsyncWorker, Worker
from workers.config import EngineConfig
from workers.engine.build import BuiltEngine, build_engine
from workers.engine.warm_up import warm_up
from workers.weights.model_dir import resolve_model_dir

logger = logging.getLogger("ray.serve")

Output = TypeVar("Output")


@dataclass(frozen=True)
class WorkerSettings:
    """What a replica needs to make its worker.

    Attributes:
        model: directory or Hub id.
        secret: keys the block hashes, at most 64 bytes.
        token: admits callers to the worker's own port.
        worker_host: address of that port; None for the node's own.
        step_timeout_s: an engine step that takes longer counts as hung; more where a slow machine needs it.
        model_name: what clients call the model.
        pool: whose worker it is; known once the pool is bound.
    """

    model: str
    engine: EngineConfig
    secret: bytes
    token: str
    worker_host: str | None
    step_timeout_s: float
    model_name: str
    pool: str = ""


class WorkerHost(Generic[Output]):
    """Runs one worker inside a Serve replica."""

    def __init__(self, worker: Worker[Output], built: BuiltEngine, settings: WorkerSettings) -> None:
        join_serve_log()
        keep_on_loopback()
        full_step_s = warm_up(built.engine, settings.engine.scheduler.max_num_batched_tokens)
        step_timeout_s = max(settings.step_timeout_s, full_step_s)
        host = settings.worker_host or ray.util.get_node_ip_address()
        self.server = WorkerServer(settings.token, host, name=replica_name())
        self.worker = AsyncWorker(worker, self._publish, step_timeout_s)
        self._publisher = EventPublisher(self.server, self.worker.epoch, self.worker.snapshot)
        self._engine = built.engine
        self._engine.take_counts()  # of the warm-up
        self.server.add_unary(RESET, self._reset_prefix_cache)
        self.metrics = WorkerMetrics(RaySink(settings.model_name, settings.pool, replica_name()))

    def on_abort(self, abort: Callable[[str], None]) -> None:
        """Let front doors end requests whose clients have gone."""

        async def told(request: bytes, _: Context) -> bytes:
            abort(request.decode())
            return b""

        self.server.add_unary(ABORT, told)

    async def routing_stats(self) -> dict[str, object]:
        """What Serve passes to the routers of this pool. The load is read between two steps of the worker, and goes
        into its metrics too."""
        load, counts = await self.worker.load(), await self.worker.call(self._engine.take_counts)
        self.metrics.record(load, counts)
        return {EVENTS_STAT: self.server.endpoint, LOAD_STAT: load}

    async def _reset_prefix_cache(self, _request: bytes, _: Context) -> bytes:
        await self.worker.call(self._engine.reset_prefix_cache)
        return b""

    def _publish(self, batch: EventBatch) -> None:
        self._publisher.publish(batch)


def load_engine(settings: WorkerSettings) -> BuiltEngine:
    """Load the model of a replica, with all of the machine's cores for it.

    Ray gives an actor one OpenMP thread per CPU it reserves; a prefill is compute-bound and wants them all.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    built = build_engine(resolve_model_dir(settings.model), settings.engine, settings.secret)
    tensor = built.kv_cache.tensor
    logger.info("model loaded on %s, KV pool of %d MiB: %s", tensor.device, tensor.nbytes >> 20, built.layout_id)
    return built
