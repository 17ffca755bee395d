"""As much HTTP/1.1 as a stream of events needs, over asyncio: a client must cost its servers' cores little."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
DONE = b"[DONE]"
PART_BYTES = 65536
MAX_SHORT_BYTES = 1_000_000


class Cut(Exception):
    """The connection ended before what was to come over it."""


class Malformed(Exception):
    """The server's answer is not what the protocol has."""


@dataclass
class Response:
    """The head of an answer; the body is still to be read."""

    status: int
    headers: Mapping[str, str]
    reader: asyncio.StreamReader

    async def content(self) -> bytes:
        """The whole of a short body, or its beginning. Raises Cut or Malformed."""
        content = b""
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                content += part
                if len(content) > MAX_SHORT_BYTES:
                    break
        return content

    async def events(self) -> AsyncGenerator[Json]:
        """Events up to the end mark. Raises Cut where the body ends before it, Malformed where one is no object."""
        rest = b""
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data:"):
                        continue
                    if (data := line.removeprefix(b"data:").strip()) == DONE:
                        return
                    yield json_object(data)
        raise Cut("the stream ended without its end mark")

    async def _parts(self) -> AsyncGenerator[bytes]:
        """The body as it comes: chunked, so long, or up to the end of the connection."""
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                    yield (await self.reader.readexactly(size + 2))[:-2]
            elif length := self.headers.get("content-length"):
                yield await self.reader.readexactly(int(length))
            else:
                while part := await self.reader.read(PART_BYTES):
                    yield part
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Cut(f"{type(error).__name__} in the body") from error
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise Malformed(f"the body: {error}") from error


@contextlib.asynccontextmanager
async def request(url: str, body: Json | None = None, key: str | None = None) -> AsyncIterator[Response]:
    """Send a request over a connection of its own: GET, or POST of a body; `key` is the API's, if it wants one.

    Raises:
        OSError: nothing listens there.
        Cut, Malformed: no answer came, or not one of HTTP.
    """
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    try:
        writer.write(request_bytes(parts.path, parts.netloc, body, key))
        yield await response(reader)
    finally:
        with contextlib.suppress(OSError):
            writer.close()


async def response(reader: asyncio.StreamReader) -> Response:
    """Read the head. Raises Cut or Malformed."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        return Response(int(head[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, reader)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Cut(f"{type(error).__name__} before the answer") from error
    except (ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise Malformed(f"the head of the answer: {error}") from error


def request_bytes(path: str, host: str, body: Json | None, key: str | None) -> bytes:
    """The whole request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += [f"Content-Length: {len(content)}", "Content-Type: application/json"] if content else []
    return "\r\n".join([*lines, "\r\n"]).encode() + content


def json_object(data: bytes) -> Json:
    """Raises Malformed where it is none."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Malformed(f"{error}: {data[:80]!r}") from error
    if not isinstance(value, dict):
        raise Malformed(f"not an object: {data[:80]!r}")
    return value
