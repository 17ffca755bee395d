"""A fake pair of pools, and what a front door over it is asked."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from cluster.api.answers import Json
from cluster.door.frontend_settings import FrontendSettings
from cluster.route_question import RouteQuestion
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, FinishReason, GenerationRequest, RequestOutput
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

SETTINGS = FrontendSettings(
    str(TINY_MODEL), "tiny", 64, 4096, 16, "tiny", b"s", token="t", request_timeout_s=60, local_prefill_tokens=0
)
LIMIT = 2
SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"spec_version": "2.3"},
    "method": "POST",
    "path": "/v1/completions",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "import os"}]}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "import os"}


class FakePools:
    """Answers every request with the same text, one token at a time: the first from prefill, the others from decode."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokens = tokenizer.encode(text)[1:]
        self.requests: list[GenerationRequest] = []
        self.num_opened = 0
        self.num_closed = 0
        self.ends_with = FinishReason.LENGTH
        self.fails_after: int | None = None
        self.fails_with: Exception = RuntimeError("a secret of the house at /etc/passwd")
        self.gate = asyncio.Event()
        self.gate.set()
        self.known: Json = {"worker": "a"}
        self.is_empty = False
        self.asked: list[RouteQuestion] = []
        self.num_resets = 0
        self.unreached: list[str] = []

    async def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        self.requests.append(request)
        async with aclosing(self._drawn(request, slice(1))) as drawn:
            async for token, finish_reason in drawn:
                yield Prefilled(request.request_id, "", b"", 1, 3, token, finish_reason)

    async def decode(
        self, request: GenerationRequest, prefilled: Prefilled | None
    ) -> AsyncGenerator[Beat | RequestOutput]:
        async with aclosing(self._drawn(request, slice(1, request.sampling.max_tokens))) as drawn:
            async for token, finish_reason in drawn:
                yield RequestOutput(request.request_id, (token,), 3, finish_reason)

    async def starts_at_decode(self, request: GenerationRequest) -> bool:
        return False

    def abort(self, endpoint: str, request_id: str) -> None:
        raise AssertionError("without a sign of life nobody knows where")

    async def ask_all(self, make_question: Callable[[], RouteQuestion]) -> Json:
        if self.is_empty:
            raise TimeoutError
        self.asked.append(make_question())
        return {"prefill": self.known, "decode": {}}

    async def reset_prefix_caches(self) -> list[str]:
        if self.is_empty:
            raise TimeoutError
        self.num_resets += 1
        return self.unreached

    async def _drawn(self, request: GenerationRequest, part: slice) -> AsyncGenerator[tuple[int, FinishReason | None]]:
        self.num_opened += 1
        try:
            last = min(request.sampling.max_tokens, len(self._tokens)) - 1
            for index, token in list(enumerate(self._tokens))[part]:
                await self.gate.wait()
                await asyncio.sleep(0)
                if self.fails_after is not None and index >= self.fails_after:
                    raise self.fails_with
                yield token, self.ends_with if index == last else None
        finally:
            self.num_closed += 1


def events_of(body: str) -> list[Any]:
    """The data of a stream's events; [DONE] stays text."""
    data = [event.removeprefix("data: ") for event in body.strip().split("\n\n")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
