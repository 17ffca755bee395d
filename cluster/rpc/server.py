"""Where the gRPC API listens.

In the ingress replica itself: Serve 2.60 has a gRPC proxy, but what it starts for it, the proxy or a server in each
ingress replica behind HAProxy, listens on every interface, whatever `http.host` says (docs/grpc.md).
"""

import grpc
from grpc_reflection.v1alpha import reflection

from cluster.api.request_body import MAX_BODY_BYTES
from cluster.door.frontend import Frontend
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.gate import Gate
from cluster.rpc.key_interceptor import KeyInterceptor
from cluster.rpc.service import SERVICE, GenerationService
from cluster.telemetry.access_log import Trace

STOP_GRACE_S = 15.0  # for calls in flight; Serve ends a replica that takes longer than 20 s
OPTIONS = [("grpc.max_receive_message_length", MAX_BODY_BYTES)]


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
