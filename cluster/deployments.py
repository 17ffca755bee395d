"""The replicas of the two pools as Serve calls them: thin wrappers over `workers/pools`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from cluster.worker_host import WorkerHost, WorkerSettings, load_engine
from workers.pools.decode_worker import DecodeWorker
from workers.pools.kv_handoff import KVHandoff
from workers.pools.prefill_worker import PrefillWorker
from workers.request import GenerationRequest, RequestOutput


class PoolReplica:
    """What Serve asks of a replica of either pool."""

    _host: WorkerHost[Any]

    async def record_routing_stats(self) -> dict[str, object]:
        """Called by Serve once a second, for this pool's routers."""
        return await self._host.routing_stats()

    def check_health(self) -> None:
        """Called by Serve; a replica that raises is replaced."""
        self._host.worker.check_health()


class PrefillReplica(PoolReplica):
    """One prefill worker."""

    async def __init__(self, settings: WorkerSettings) -> None:  # type: ignore[misc]
        self._worker = PrefillWorker(load_engine(settings))
        self._host = WorkerHost(self._worker, settings)
        await self._host.start()

    async def prefill(self, request: GenerationRequest) -> KVHandoff:
        """Compute a prompt. Unary, so that its unawaited response can be passed to the decode pool by reference."""
        async with aclosing(
            self._host.worker.outputs(request.request_id, lambda: self._worker.add_request(request))
        ) as outputs:
            return await anext(outputs)


class DecodeReplica(PoolReplica):
    """One decode worker."""

    async def __init__(self, settings: WorkerSettings) -> None:  # type: ignore[misc]
        self._worker = DecodeWorker(load_engine(settings))
        self._host = WorkerHost(self._worker, settings)
        await self._host.start()

    async def decode(self, request: GenerationRequest, handoff: KVHandoff) -> AsyncIterator[RequestOutput]:
        """Stream a completion. A caller that goes away closes the stream, which aborts the request."""
        add = lambda: self._worker.add_request(request, handoff)  # noqa: E731
        async with aclosing(self._host.worker.outputs(request.request_id, add)) as outputs:
            async for output in outputs:
                yield output
                if output.finish_reason is not None:
                    return
