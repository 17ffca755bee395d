"""The replicas of the two pools as Serve calls them: thin wrappers over `workers/pools`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from cluster.kv_transfer import WorkerClient, serve_kv
from cluster.worker_host import WorkerHost, WorkerSettings, load_engine
from workers.pools.decode_worker import DecodeWorker
from workers.pools.handoff_shelf import HandoffShelf
from workers.pools.kv_handoff import Prefilled
from workers.pools.prefill_worker import PrefillWorker
from workers.pools.services import DecodeService, PrefillService
from workers.request import Beat, GenerationRequest, RequestOutput


class PoolReplica:
    """What Serve asks of a replica of either pool."""

    _host: WorkerHost[Any]

    async def record_routing_stats(self) -> dict[str, object]:
        """Called by Serve once a second, for this pool's routers."""
        return await self._host.routing_stats()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve where the pool scales with its load (`cluster.autoscaling`)."""
        load = await self._host.worker.load()
        return {"queued_tokens": float(load.queued_tokens), "kv_usage": load.kv_usage}

    def check_health(self) -> None:
        """Called by Serve; a replica that raises is replaced."""
        self._host.worker.check_health()


class PrefillReplica(PoolReplica):
    """One prefill worker."""

    async def __init__(self, settings: WorkerSettings) -> None:  # type: ignore[misc]
        built = load_engine(settings)
        worker = PrefillWorker(built)
        self._host = WorkerHost(worker, built, settings)
        self._shelf = HandoffShelf(self._host.worker.epoch)
        serve_kv(self._host.server, self._shelf)
        self._service = PrefillService(worker, self._host.worker, self._shelf, self._host.server)
        self._host.on_abort(self._service.abort)
        await self._host.server.start()

    async def prefill(self, request: GenerationRequest) -> AsyncIterator[Beat | Prefilled]:
        """Compute a prompt: signs of life, then the outcome. Its KV waits here for a decode worker to fetch it."""
        async with aclosing(self._service.prefill(request)) as items:
            async for item in items:
                yield item

    async def record_routing_stats(self) -> dict[str, object]:
        """As for any worker; and a lease that ended while nobody came is over."""
        self._shelf.expire()
        return await super().record_routing_stats()

    async def __del__(self) -> None:
        """Awaited by Serve when the last request has been answered: some of their KV may not have been fetched yet."""
        if hasattr(self, "_service"):  # the model was loaded
            await self._service.drained()


class DecodeReplica(PoolReplica):
    """One decode worker."""

    async def __init__(self, settings: WorkerSettings) -> None:  # type: ignore[misc]
        built = load_engine(settings)
        worker = DecodeWorker(built)
        self._host = WorkerHost(worker, built, settings)
        client = WorkerClient(settings.token)
        self._service = DecodeService(worker, self._host.worker, client.fetch, self._host.server)
        self._host.on_abort(self._service.abort)
        await self._host.server.start()

    async def record_routing_stats(self) -> dict[str, object]:
        """As for any worker; and what it has fetched goes into its metrics."""
        self._host.metrics.record_handoffs(self._service.take_handoffs())
        return await super().record_routing_stats()

    async def decode(
        self, request: GenerationRequest, prefilled: Prefilled | None
    ) -> AsyncIterator[Beat | RequestOutput]:
        """Stream a completion. A caller that goes away closes the stream, which aborts the request."""
        async with aclosing(self._service.decode(request, prefilled)) as items:
            async for item in items:
                yield item
