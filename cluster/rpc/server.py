"""Where the gRPC API listens, and who gets in.

In the ingress replica itself: Serve 2.60 has a gRPC proxy, but what it starts for it, the proxy or a server in each
ingress replica behind HAProxy, listens on every interface, whatever `http.host` says (docs/grpc.md).
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from cluster.access_log import Trace, tell
from cluster.errors import ApiError
from cluster.exchange import Exchange
from cluster.frontend import Frontend
from cluster.request_body import MAX_BODY_BYTES
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.gate import Gate, headers_of
from cluster.rpc.service import SERVICE, GenerationService, exchange_of
from cluster.rpc.status import refuse
from cluster.worker_server import Context

OPEN_METHODS = frozenset({f"/{SERVICE}/Health"})  # what probes ask, without a key
STOP_GRACE_S = 15.0  # for calls in flight; Serve ends a replica that takes longer than 20 s
OPTIONS = [("grpc.max_receive_message_length", MAX_BODY_BYTES)]

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


class RpcServer:
    """Serves the API on the event loop that it is made on.

    Ingress replicas on one node share the port: each connection goes to one of them.
    """

    def __init__(self, frontend: Frontend, gate: Gate, trace: Trace | None = None) -> None:
        self._server = grpc.aio.server(options=OPTIONS, interceptors=[KeyInterceptor(gate)])
        self._server.add_generic_rpc_handlers((handler_of(GenerationService(frontend, gate, trace)),))
        reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port, which the system chooses for 0. Raises RuntimeError where it is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        bound = int(self._server.add_insecure_port(address))
        await self._server.start()
        return bound

    async def stop(self) -> None:
        """Take no more calls, and give those in flight time to end."""
        await self._server.stop(STOP_GRACE_S)


def handler_of(service: GenerationService) -> grpc.GenericRpcHandler:
    """The methods of the service, by their names."""
    methods = {
        "Generate": grpc.unary_stream_rpc_method_handler(
            service.generate, pb.GenerateRequest.FromString, pb.GenerateResponse.SerializeToString
        ),
        "Tokenize": grpc.unary_unary_rpc_method_handler(
            service.tokenize, pb.TokenizeRequest.FromString, pb.TokenizeResponse.SerializeToString
        ),
        "Health": grpc.unary_unary_rpc_method_handler(
            service.health, pb.HealthRequest.FromString, pb.HealthResponse.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the key of a tenant, whatever they call: as `cluster.auth` does for HTTP."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        """Called by gRPC for each call."""
        if handler_call_details.method in OPEN_METHODS:
            return await continuation(handler_call_details)
        headers = headers_of(handler_call_details.invocation_metadata)
        try:
            self._gate.tenant(headers)
        except ApiError as error:
            return refusing(error, exchange_of(handler_call_details.method, headers))
        return await continuation(handler_call_details)


def refusing(error: ApiError, exchange: Exchange) -> grpc.RpcMethodHandler:
    """A method that is refused."""

    async def tell_caller(_: Any, context: Context) -> None:
        exchange.status = error.status
        exchange.end(None)
        tell(exchange, None)
        await refuse(context, error)

    return grpc.unary_unary_rpc_method_handler(tell_caller)
