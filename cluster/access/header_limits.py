"""How many headers a request may have. HAProxy refuses more before (`cluster/haproxy_launcher.py`); Serve's own proxy
does not, nor does a front door's own port."""

from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.api.errors import ApiError

MAX_HEADERS = 100  # more than HAProxy lets through: it adds some
MAX_HEADER_BYTES = 2**16


class HeaderLimits:
    """Refuses requests with more, with HTTP 431."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server with each request."""
        headers = scope["headers"] if scope["type"] == "http" else ()
        if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            message = f"the request has more than {MAX_HEADERS} headers, or more than {MAX_HEADER_BYTES} bytes of them"
            await ApiError(431, message, code="headers_too_large").response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)
