"""Server-sent events, and the response that brings them to a client and ends what they come from."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cluster.api.answers import Json

DONE = "data: [DONE]\n\n"


class EventStreamResponse(StreamingResponse):
    """A stream of events that closes its source, whichever way it ends.

    Starlette leaves a generator to the garbage collector when the client goes, and one that it had not begun to read as
    well: a worker would work on for nobody until then.

    Args:
        events: read from `source`.
        source: closed with the response.
    """

    def __init__(self, events: AsyncGenerator[str], source: AsyncGenerator[Any]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._events = events
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server to send it."""
        async with aclosing(self._source), aclosing(self._events):
            await super().__call__(scope, receive, send)


def sse(data: Json) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
