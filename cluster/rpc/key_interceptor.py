"""Lets no call in without a key: around the whole server, so that a method that is added later is closed as well."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from cluster.api.errors import ApiError
from cluster.rpc.gate import Gate, headers_of
from cluster.rpc.service import SERVICE, exchange_of
from cluster.rpc.status import refuse
from cluster.telemetry.access_log import tell
from cluster.telemetry.exchange import Exchange
from cluster.worker_server import Context

OPEN_METHODS = frozenset({f"/{SERVICE}/Health"})  # what probes ask, without a key

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]]


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the key of a tenant, as `cluster.access.auth` does for HTTP."""

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
    """A method that is refused, before its request has been read."""

    async def tell_caller(_: Any, context: Context) -> None:
        exchange.status = error.status
        exchange.end(None)
        tell(exchange, None)
        await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(tell_caller)
