"""A server of the OpenAI API that says what it is told to, over real sockets, in this process."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Json = dict[str, Any]
DONE = "data: [DONE]\n\n"


class Conversation:
    """One request, and the means to answer it."""

    def __init__(self, path: str, headers: dict[str, str], body: Json, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.gone = asyncio.Event()
        self._writer = writer

    async def begin(self, status: int = 200, kind: str = "text/event-stream") -> None:
        """The head of a chunked answer."""
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await self.raw(head.encode())

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, text: str) -> None:
        """A chunk of the body; the empty one ends it."""
        data = text.encode()
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def event(self, value: Json) -> None:
        """A chunk that is an event."""
        await self.chunk(f"data: {json.dumps(value)}\n\n")

    async def text(self, piece: str) -> None:
        """A piece of the answer, in the manner of the kind of completion that was asked for."""
        choice: Json = {"delta": {"content": piece}} if "chat" in self.path else {"text": piece}
        await self.event({"choices": [choice | {"index": 0, "finish_reason": None}], "usage": None})

    async def usage(self, prompt: int, output: int, cached: int) -> None:
        """The last event before the end mark."""
        details = {"cached_tokens": cached}
        used = {"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": details}
        await self.event({"choices": [], "usage": used})

    async def end(self) -> None:
        """The end mark, and the end of the body."""
        await self.chunk(DONE)
        await self.chunk("")


Script = Callable[[Conversation], Awaitable[None]]


@contextlib.asynccontextmanager
async def sse_server(script: Script) -> AsyncIterator[str]:
    """The URL of a server that answers each completion by a script, and /v1/models with `stub`."""

    serving = set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(script, reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*serving)


async def serve(script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, one request."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        conversation = Conversation(*await read_request(reader), writer)
        watching = asyncio.create_task(watch(reader, conversation))
        await (models if conversation.path == "/v1/models" else script)(conversation)
        watching.cancel()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def watch(reader: asyncio.StreamReader, conversation: Conversation) -> None:
    """Note when the client goes."""
    with contextlib.suppress(ConnectionError):
        await reader.read()
    conversation.gone.set()


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], Json]:
    """Path, headers by their names in lower case, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    length = int(headers.get("content-length", 0))
    content = await reader.readexactly(length)
    return head[0].split()[1], headers, json.loads(content) if content else {}


async def models(conversation: Conversation) -> None:
    """The only model."""
    content = json.dumps({"object": "list", "data": [{"id": "stub"}]})
    await conversation.raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())


async def echo(conversation: Conversation) -> None:
    """As many words as asked for, and a usage that counts characters as tokens; nothing is ever cached."""
    await conversation.begin()
    count = conversation.body["max_tokens"]
    for number in range(count):
        await conversation.text(f" word{number}")
    messages = conversation.body.get("messages") or [{"content": conversation.body["prompt"]}]
    await conversation.usage(sum(len(message["content"]) for message in messages), count, 0)
    await conversation.end()
