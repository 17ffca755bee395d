"""What operators ask of a front door: routes of their own, on a port of their own, with keys of their own."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace

import uvicorn
from fastapi import FastAPI, Request
from starlette.types import ASGIApp

from cluster.access.auth import AuthMiddleware
from cluster.access.key_file import KeyFile
from cluster.api.answers import Json
from cluster.api.errors import install_handlers
from cluster.api.protocol import ChatBody, CompletionBody
from cluster.api.request_body import read_body
from cluster.api.strict_json import parse_json
from cluster.api.validation import validated
from cluster.door.caller import caller_of
from cluster.door.frontend import Frontend
from cluster.telemetry.access_log import AccessLog

logger = logging.getLogger("ray.serve")

LOOPBACK = "127.0.0.1"
RETRY_S = 1.0


def build_admin_api(frontend: Frontend, keys: KeyFile) -> FastAPI:
    """The routes, for those with a key. A request that is only explained counts as one of the `tenant` named."""
    api = FastAPI(title="raydix admin", docs_url=None, redoc_url=None, openapi_url=None)
    api.add_middleware(AuthMiddleware, owner_of=keys.owner_of)
    api.add_middleware(AccessLog, trace=None)
    install_handlers(api)

    @api.get("/debug/route")
    async def explain(request: Request, request_id: str = "", prompt: str = "", tenant: str = "") -> Json:
        """The counts, one request that was answered lately, or, charging nothing, one that is not sent."""
        if prompt:
            body = CompletionBody(model=frontend.model_name, prompt=prompt)
            return await frontend.dry_run(body, replace(caller_of(request), tenant=tenant))
        return await frontend.explain(request_id)

    @api.post("/debug/route")
    async def dry_run(request: Request, tenant: str = "") -> Json:
        values = parse_json(await read_body(request))
        kind: type[ChatBody | CompletionBody] = ChatBody if "messages" in values else CompletionBody
        return await frontend.dry_run(validated(kind, values), replace(caller_of(request), tenant=tenant))

    @api.post("/reset_prefix_cache")
    async def reset_prefix_cache() -> Json:
        await frontend.reset_prefix_caches()
        return {}

    return api


class Server(uvicorn.Server):
    """Leaves signals to Serve."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Called by uvicorn while it serves."""
        yield


async def serve_on_loopback(app: ASGIApp, port: int) -> None:
    """Serve an app for ever, beside Serve's own port. One that is taken is waited for: the front door that is replaced
    may not have gone yet."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False)
    while True:
        try:
            with socket.create_server((LOOPBACK, port)) as listener:
                await Server(config).serve(sockets=[listener])
        except OSError as error:
            logger.warning("the admin port %s:%d cannot be had yet: %s", LOOPBACK, port, error.strerror)
            await asyncio.sleep(RETRY_S)
