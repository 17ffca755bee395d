"""A request's body on its way in: of the right type, and never more of it than is let in."""

import asyncio
import re
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from cluster.api.errors import ApiError
from cluster.api.protocol import GenerationBody
from cluster.api.strict_json import parse_json
from cluster.api.validation import validated

Body = TypeVar("Body", bound=BaseModel)
MAX_BODY_BYTES = 16 * 2**20
BODY_TIMEOUT_S = 30  # meanwhile it holds one of the front door's slots
IGNORED_HEADER = "x-raydix-ignored-parameters"
SHOWN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_SHOWN = 20


async def body_of(request: Request, kind: type[Body]) -> Body:
    """What a request says. Raises ApiError where it cannot be read or is not right."""
    return validated(kind, parse_json(await read_body(request)))


def naming_ignored(response: Response, body: GenerationBody) -> Response:
    """The response with a header that names the fields of the body that have no effect, if there are any."""
    shown = [name for name in body.ignored if SHOWN_NAME.fullmatch(name)][:MAX_SHOWN]
    if shown:
        response.headers[IGNORED_HEADER] = ", ".join(shown)
    return response


async def read_body(request: Request) -> bytes:
    """All of it. Raises ApiError where it is not called JSON, or where it is too long or too slow, as soon as that is
    known."""
    check_content_type(request.headers.get("content-type"))
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise too_large()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await read_chunks(request)
    except TimeoutError as error:
        raise ApiError(408, f"the body did not arrive within {BODY_TIMEOUT_S} s", code="request_timeout") from error


async def read_chunks(request: Request) -> bytes:
    """What comes, up to the most that is let in. Raises ApiError beyond that."""
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > MAX_BODY_BYTES:
            raise too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def check_content_type(value: str | None) -> None:
    """Raise ApiError unless it is JSON: a browser cannot be made to send that to a foreign host without asking."""
    if (value or "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON: send Content-Type: application/json", code="unsupported_media_type")


def too_large() -> ApiError:
    """What is said to a body that is cut off."""
    return ApiError(413, f"the body is longer than {MAX_BODY_BYTES} bytes", code="request_too_large")
