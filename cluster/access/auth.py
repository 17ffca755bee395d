"""Lets nobody in without a key: around the whole app, so that a route that is added later is closed as well."""

from collections.abc import Callable, Iterable
from typing import cast

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.access.tenants import TenantEntry
from cluster.api.errors import ApiError

OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # what probes of load balancers and of Kubernetes ask, without a key
CHALLENGE = 'Bearer realm="raydix"'
TENANT = "raydix.tenant"


class AuthMiddleware:
    """Refuses what comes without the key of a tenant, with HTTP 401, before its body is so much as looked at.

    Who asks is decided by `Authorization: Bearer KEY`; whether a key is needed by the path that the app will see, not
    by any URL that a header had a part in (CVE-2026-48746).

    Args:
        owner_of: whose key it is; None for nobody's.
    """

    def __init__(self, app: ASGIApp, owner_of: Callable[[bytes], TenantEntry | None]) -> None:
        self._app = app
        self._owner_of = owner_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server with each request."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self._app(scope, receive, send)
            return
        key = bearer_key(scope["headers"])
        owner = None if key is None else self._owner_of(key)
        if owner is not None:
            scope[TENANT] = owner
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await challenge(key)(scope, receive, send)


def bearer_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key that a request shows, if it shows one, and one only."""
    given = [value for name, value in headers if name.lower() == b"authorization"]
    if len(given) != 1:
        return None
    scheme, _, key = given[0].partition(b" ")
    return key.strip() or None if scheme.lower() == b"bearer" else None


def refusal(key: bytes | None) -> ApiError:
    """What is said to a request without a key, or with a wrong one."""
    message = "this API key is not known here"
    if key is None:
        message = "an API key is required: send the header 'Authorization: Bearer KEY'"
    return ApiError(401, message, code="invalid_api_key")


def challenge(key: bytes | None) -> Response:
    """The same as an HTTP response."""
    response = refusal(key).response()
    response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def tenant_of(scope: Scope) -> TenantEntry | None:
    """Who asks; None for anybody, where no keys are asked for."""
    return cast(TenantEntry | None, scope.get(TENANT))
