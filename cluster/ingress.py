"""The ingress replica: the front door as Serve runs it."""

import asyncio
from typing import TYPE_CHECKING

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.access.admin import build_admin_api, serve_on_loopback
from cluster.access.auth_config import AdminSection, AuthSection
from cluster.access.key_file import KeyFile
from cluster.access.metering import Accounts
from cluster.api.routes import build_api
from cluster.config import IngressSection, PoolName
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from cluster.door.frontend_settings import FrontendSettings
from cluster.pools import ServePools
from cluster.replica_port import keep_on_loopback
from cluster.rpc.gate import Gate
from cluster.rpc.server import RpcServer
from cluster.telemetry.access_log import Trace
from cluster.telemetry.config import TracingSection
from cluster.telemetry.metric_names import REFUSED_REQUESTS, RESUMED_REQUESTS
from cluster.telemetry.metric_sink import Totals
from cluster.telemetry.ray_metrics import RaySink, every_second, replica_name
from cluster.telemetry.request_metrics import announce
from cluster.telemetry.serve_logging import join_serve_log
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import resolve_model_dir

if TYPE_CHECKING:
    from cluster.telemetry.tracing import Tracer

POOL = "ingress"  # in metrics
FLUSH_S = 2.0  # for the last spans


class FrontReplica:
    """One front door. Its FastAPI app is built in the replica, around the handles that Serve gives it.

    Args:
        grpc: host and port of the gRPC API; None for none.
    """

    async def __init__(  # type: ignore[misc]
        self,
        settings: FrontendSettings,
        pools: dict[PoolName, DeploymentHandle],
        ingress: IngressSection,
        auth: AuthSection,
        admin: AdminSection,
        tracing: TracingSection,
        grpc: tuple[str, int] | None,
    ) -> None:
        join_serve_log()
        keep_on_loopback()
        tokenizer = Tokenizer(resolve_model_dir(settings.model))
        serve_pools = ServePools(pools, settings.token, settings.local_prefill_tokens)
        sink = RaySink(settings.model_name, POOL, replica_name())
        self._frontend = Frontend(settings, tokenizer, serve_pools, sink)
        self._admission = Admission(ingress.max_ongoing_requests)
        self._keys = None if auth.keys_path is None else KeyFile(auth.keys_path)
        self._accounts = Accounts()
        self._admin_keys = None if admin.keys_path is None else KeyFile(admin.keys_path)
        self._tracer = make_tracer(tracing) if tracing.is_on else None
        self._totals = Totals(sink)
        announce(sink)
        self._tasks = [asyncio.create_task(every_second(self._record))]
        if self._admin_keys is not None and admin.port is not None:
            self._serve_admin(self._admin_keys, admin.port + local_rank())
        self._rpc = None if grpc is None else await self._serve_rpc(*grpc)

    async def _serve_rpc(self, host: str, port: int) -> RpcServer:
        owner_of = None if self._keys is None else self._keys.owner_of
        server = RpcServer(self._frontend, Gate(self._admission, self._accounts, owner_of), self._trace)
        await server.start(host, port)
        return server

    def _serve_admin(self, keys: KeyFile, port: int) -> None:
        serving = serve_on_loopback(build_admin_api(self._frontend, keys), port)
        self._tasks.append(asyncio.create_task(serving))

    @property
    def _trace(self) -> Trace | None:
        return None if self._tracer is None else self._tracer.trace

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is constructed."""
        return build_api(
            self._frontend,
            self._admission,
            keys=self._keys,
            accounts=self._accounts,
            trace=self._trace,
        )

    async def __del__(self) -> None:
        """Awaited by Serve when HTTP requests have been answered: calls may be in flight still, and spans unsent."""
        if self._rpc is not None:
            await self._rpc.stop()
        if self._tracer is not None:
            await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(self._tracer.close))], timeout=FLUSH_S)

    def _record(self) -> None:
        for keys in filter(None, (self._keys, self._admin_keys)):
            keys.refresh()
        self._accounts.tell(self._totals)
        self._totals.tell(REFUSED_REQUESTS, self._admission.num_refused)
        self._totals.tell(RESUMED_REQUESTS, self._frontend.num_resumed)


def local_rank() -> int:
    """Which of its machine's front doors this is."""
    rank = serve.get_replica_context().rank
    return 0 if rank is None else int(rank.local_rank)


def make_tracer(tracing: TracingSection) -> "Tracer":
    """What makes spans here. Only this loads OpenTelemetry."""
    from cluster.telemetry.span_exporter import make_exporter
    from cluster.telemetry.tracing import Tracer

    return Tracer(make_exporter(tracing.endpoint), tracing.sampling_ratio, replica_name())


IngressReplica = serve.ingress()(FrontReplica)
