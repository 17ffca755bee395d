"""The API's errors as gRPC tells them: a status code, the message, and the rest in trailing metadata."""

from typing import NoReturn

import grpc

from cluster.api.errors import ApiError
from cluster.worker_server import Context

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
PARAM, CODE, RETRY_AFTER = "raydix-param", "raydix-code", "retry-after"


async def refuse(context: Context, error: ApiError) -> NoReturn:
    """End a call with an error: what the HTTP API calls `param`, `code` and `Retry-After` is trailing metadata."""
    rest = {PARAM: error.param, CODE: error.code, RETRY_AFTER: error.retry_after_s}
    trailing = tuple((name, ascii_of(str(value))) for name, value in rest.items() if value is not None)
    await context.abort(CODES.get(error.status, grpc.StatusCode.INTERNAL), error.message, trailing)
    raise AssertionError("abort raises")


def ascii_of(text: str) -> str:
    """Metadata is nothing else."""
    return text.encode("ascii", "backslashreplace").decode()
