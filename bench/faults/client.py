"""A client that streams completions and notes when each piece came. Plain asyncio: it shares its cores with servers."""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from cluster.haproxy_launcher import LOOPBACK

Json = dict[str, Any]
DONE = "[DONE]"
CUT = "the connection was cut"


@dataclass
class Heard:
    """One answer as it came, of whatever kind.

    Attributes:
        chunks: when each piece of text came, and the piece.
        error: what went wrong; empty where the stream ended with its end mark.
        retry_after: what a refusal says of when to come again.
        cut: whether what went wrong is the connection, or the proxy's word that it has nobody to pass this to.
    """

    sent_s: float
    request_id: str = ""
    status: int = 0
    chunks: list[tuple[float, str]] = field(default_factory=list)
    finish_reason: str | None = None
    num_tokens: int | None = None
    error: str = ""
    retry_after: str | None = None
    cut: bool = False
    end_s: float = 0.0

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(text for _, text in self.chunks)


async def complete(port: int, body: Json, timeout_s: float = 120.0, leave_after: int | None = None) -> Heard:
    """Stream a completion, all of it, or until so many pieces have come; 0 leaves once it is sent."""
    heard = Heard(time.monotonic())
    try:
        async with asyncio.timeout(timeout_s):
            await converse(port, body | {"stream": True}, heard, leave_after)
    except TimeoutError:
        heard.error = "no end within the time"
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        heard.error, heard.cut = f"{CUT}: {type(error).__name__}", True
    heard.end_s = time.monotonic()
    return heard


async def converse(port: int, body: Json, heard: Heard, leave_after: int | None) -> None:
    """Over a connection of its own."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(post("/v1/completions", body))
        if leave_after == 0:
            await writer.drain()
            return
        heard.status = int((await reader.readuntil(b"\r\n")).split()[1])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if heard.status != 200:
            heard.retry_after = header(head, "retry-after")
            take_refusal(heard, await rest(reader, head))
            return
        await take_events(reader, heard, leave_after)
    finally:
        with contextlib.suppress(OSError):
            writer.close()


async def take_events(reader: asyncio.StreamReader, heard: Heard, leave_after: int | None) -> None:
    """Note each event of a chunked stream. Raises ValueError where it ends before its end mark."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        part = (await reader.readexactly(size + 2)).decode()
        for line in part.splitlines():
            if line.startswith("data: ") and take_event(heard, line.removeprefix("data: ")):
                return
        if leave_after is not None and len(heard.chunks) >= leave_after:
            return
    raise ValueError(CUT)


def take_event(heard: Heard, data: str) -> bool:
    """Whether it was the last one."""
    if data == DONE:
        return True
    event = json.loads(data)
    if "error" in event:
        heard.error = event["error"]["message"]
        return True
    heard.request_id = event["id"]
    for choice in event["choices"]:
        if choice["text"]:
            heard.chunks.append((time.monotonic(), choice["text"]))
        heard.finish_reason = choice["finish_reason"] or heard.finish_reason
    if event.get("usage"):
        heard.num_tokens = event["usage"]["completion_tokens"]
    return False


def take_refusal(heard: Heard, content: str) -> None:
    """An answer that is no stream; one without our error object is the proxy's own."""
    heard.error = f"HTTP {heard.status}: {content[:200]}"
    heard.cut = heard.status >= 500 and '"error"' not in content


async def rest(reader: asyncio.StreamReader, head: bytes) -> str:
    """The body of a short answer."""
    length = header(head, "content-length")
    content = await (reader.readexactly(int(length)) if length else reader.read(4096))
    return content.decode("utf-8", "replace")


def header(head: bytes, name: str) -> str | None:
    """A header's value in a head in small letters; None where it is not there."""
    _, found, after = head.partition(f"{name}: ".encode())
    return after.partition(b"\r")[0].decode() if found else None


def post(path: str, body: Json) -> bytes:
    """A whole HTTP request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
