"""An app behind what Serve puts before it, and Serve's log, without Ray."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from ray.serve import context
from ray.serve._private.http_util import RequestIdMiddleware
from ray.serve._private.logging_utils import configure_component_logger, configure_default_serve_logger
from ray.serve.schema import LoggingConfig
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.telemetry.config import LogsSection


def behind_serve(app: ASGIApp) -> ASGIApp:
    """With the request's id in its headers, its answers' and Serve's context, as a replica has it."""

    async def replica(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = Headers(scope=scope)["x-request-id"]
        context._set_request_context(route="/", request_id=request_id, _internal_request_id="i", app_name="raydix")
        await app(scope, receive, send)

    served: ASGIApp = RequestIdMiddleware(replica)

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        await (served if scope["type"] == "http" else app)(scope, receive, send)

    return server


class ServeLog:
    """What a replica's log file holds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def text(self) -> str:
        return "".join(path.read_text() for path in self._directory.glob("*.log"))

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines, where they are JSON."""
        return [json.loads(line) for line in self.text.splitlines()]

    def of_request(self, request_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record.get("request_id") == request_id]


@contextmanager
def serve_log(directory: Path, logs: LogsSection) -> Iterator[ServeLog]:
    """Log as a replica with this configuration does, for as long as the context lasts."""
    access = logging.getLogger("ray.serve.access")
    level = access.level
    config = LoggingConfig(**logs.for_serve, logs_dir=str(directory))
    configure_component_logger(
        component_name="ingress", component_id="abc", logging_config=config, max_bytes=2**20, backup_count=1
    )
    try:
        yield ServeLog(directory)
    finally:
        for handler in logging.getLogger("ray.serve").handlers:
            if isinstance(handler, MemoryHandler) and handler.target is not None:
                handler.target.close()
            handler.close()
        configure_default_serve_logger()
        access.setLevel(level)
