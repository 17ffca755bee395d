"""One request's way through the pools, from tokens to text."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from cluster.answers import Json, usage
from cluster.route_question import RouteQuestion
from workers.request import FinishReason, GenerationRequest, RequestOutput
from workers.text_stream import TextStream
from workers.tokenizer import Tokenizer

ROUTE_TIMEOUT_S = 5.0


class Pools:
    """The two pools as the front door sees them."""

    def __init__(self, prefill: DeploymentHandle, decode: DeploymentHandle) -> None:
        # By reference, the KV goes from the prefill replica's object store to the decode replica and never through
        # here, even where Serve is told to send handle calls by value.
        self._prefill = prefill.options(_by_reference=True)
        self._decode = decode.options(_by_reference=True, stream=True)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[RequestOutput]:
        """Prefill, hand off, decode. Closing the iterator cancels both calls."""
        handoff = self._prefill.prefill.remote(request)
        outputs = self._decode.decode.remote(request, handoff)
        try:
            async for output in outputs:
                yield output
        finally:
            outputs.cancel()
            handoff.cancel()

    async def ask(self, prefill: RouteQuestion, decode: RouteQuestion) -> Json:
        """Ask the router of each pool. Raises TimeoutError where a pool has had no replica for a while."""
        calls = self._prefill.prefill.remote(prefill), self._decode.decode.remote(decode)
        try:
            async with asyncio.timeout(ROUTE_TIMEOUT_S):
                answers = [await asyncio.wrap_future(question.answer) for question in (prefill, decode)]
        finally:
            for call in calls:
                call.cancel()
        return dict(zip(("prefill", "decode"), answers, strict=True))


@dataclass(frozen=True)
class TextDelta:
    """New text of a completion; the last one says why it ended."""

    text: str
    finish_reason: str | None


class Completion:
    """A request being answered, and its usage so far."""

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._request = request
        self._text = TextStream(tokenizer, stop)
        self._num_tokens = 0
        self._num_cached_tokens = 0

    async def deltas(self, pools: Pools) -> AsyncGenerator[TextDelta]:
        """The completion piece by piece. Stops the request at a stop string; closing it aborts the request."""
        async with aclosing(pools.generate(self._request)) as outputs:
            async for output in outputs:
                delta = self._take(output)
                if delta.text or delta.finish_reason:
                    yield delta
                if delta.finish_reason:
                    return

    def usage(self) -> Json:
        """The usage object of the API."""
        return usage(len(self._request.prompt_token_ids), self._num_tokens, self._num_cached_tokens)

    def _take(self, output: RequestOutput) -> TextDelta:
        self._num_tokens += len(output.token_ids)
        self._num_cached_tokens = output.num_cached_tokens
        text = self._text.push(output.token_ids, last=output.finish_reason is not None)
        return TextDelta(text, FinishReason.STOP.value if self._text.stopped else output.finish_reason)
