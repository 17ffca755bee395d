"""A server of the gRPC API in this process, and a client of it."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from cluster.access.tenants import Tenants, make_entry
from cluster.door.frontend import Frontend
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.gate import Gate
from cluster.rpc.server import RpcServer
from cluster.rpc.service import SERVICE

KEY = "a-key"
ENTRY = make_entry("t", hashlib.sha256(KEY.encode()).hexdigest())
TENANTS = Tenants([ENTRY.model_copy(update={"requests_per_minute": 1})])


class Client:
    """Calls the methods of a server by their names."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.generate = channel.unary_stream(
            f"/{SERVICE}/Generate", pb.GenerateRequest.SerializeToString, pb.GenerateResponse.FromString
        )
        self.tokenize = channel.unary_unary(
            f"/{SERVICE}/Tokenize", pb.TokenizeRequest.SerializeToString, pb.TokenizeResponse.FromString
        )
        self.health = channel.unary_unary(
            f"/{SERVICE}/Health", pb.HealthRequest.SerializeToString, pb.HealthResponse.FromString
        )


Use = Callable[[Client], Awaitable[None]]
Run = Callable[[Use], None]


async def served(frontend: Frontend, gate: Gate, use: Use) -> None:
    server = RpcServer(frontend, gate)
    port = await server.start("127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await use(Client(channel))
    finally:
        await server.stop()


@asynccontextmanager
async def fails(code: grpc.StatusCode) -> AsyncIterator[dict[str, str]]:
    """What is inside must end with that status; the context is the metadata of the error and its message."""
    told: dict[str, str] = {}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield told
    assert caught.value.code() is code
    told |= dict(caught.value.trailing_metadata()) | {"message": caught.value.details()}


def asked(**fields: Any) -> Any:
    given: dict[str, Any] = {"model": "tiny", "text": "import os", "max_tokens": 30} | fields
    return pb.GenerateRequest(**given)


async def all_of(call: Any) -> list[Any]:
    return [response async for response in call]
