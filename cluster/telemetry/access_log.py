"""One line in the log for each request, when it is over, and where requests are traced its spans."""

import logging
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.access.auth import tenant_of
from cluster.telemetry.exchange import KEY, Exchange

logger = logging.getLogger("ray.serve")
access_logger = logging.getLogger("ray.serve.access")  # Serve's handlers, whatever its level
SERVER_ERROR = 500

Trace = Callable[[Exchange], str]  # makes spans of it and returns the trace's id


class AccessLog:
    """The outermost part of the app: it sees every request, and how it ended.

    Args:
        trace: None where requests are not traced.
    """

    def __init__(self, app: ASGIApp, trace: Trace | None = None) -> None:
        self._app = app
        self._trace = trace
        access_logger.setLevel(logging.INFO)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server with each request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[KEY] = Exchange.of(scope)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:  # answered further out
            exchange.status = SERVER_ERROR
            raise
        finally:
            exchange.end(tenant_of(scope))
            tell(exchange, self._trace)


def tell(exchange: Exchange, trace: Trace | None) -> None:
    """Log a request that has ended. What goes wrong here is logged, and nothing else: the client has its answer."""
    try:
        fields = exchange.fields()
        if trace is not None and exchange.body is not None:
            fields["trace_id"] = trace(exchange)
        # The terminal is for progress and trouble.
        access_logger.info(line(fields), extra=fields | {"log_to_stderr": False})
    except Exception:
        logger.exception("request %s could not be logged", exchange.request_id)


def line(fields: dict[str, Any]) -> str:
    """For people: `POST /v1/completions 200 12.5ms`, and then what there is by name."""
    shown = dict(fields)
    head = f"{shown.pop('method')} {shown.pop('path')} {shown.pop('status')} {shown.pop('duration_ms'):.1f}ms"
    del shown["request_id"]  # Serve puts it before
    return " ".join([head, *(f"{name}={text_of(value)}" for name, value in shown.items())])


def text_of(value: Any) -> str:
    """A list with commas, all else as it is."""
    return ",".join(value) if isinstance(value, list) else str(value)
