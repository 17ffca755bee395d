"""The front door: OpenAI requests in, tokens to the pools, text back. Knows nothing of Serve's replicas."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from fastapi.responses import JSONResponse
from starlette.responses import Response

from cluster.api.answers import Answer, ChatAnswer, Json, TextAnswer, Usage, model_card
from cluster.api.errors import ApiError, from_exception
from cluster.api.event_stream import DONE, EventStreamResponse, sse
from cluster.api.protocol import ChatBody, CompletionBody
from cluster.api.text_delta import TextDelta, joined
from cluster.api.tokenize_bodies import DetokenizeBody, TokenizeBody
from cluster.door.batch import Batch
from cluster.door.best_of import likeliest
from cluster.door.caller import ANYBODY, Caller
from cluster.door.choices import ChoiceDelta
from cluster.door.completion import Completion
from cluster.door.failures import RequestFailures
from cluster.door.frontend_settings import FrontendSettings
from cluster.door.journey import Journey, Workers
from cluster.door.request_builder import RequestBuilder, off_loop
from cluster.route_question import RouteQuestion
from cluster.telemetry.exchange import Exchange
from cluster.telemetry.metric_sink import Sink
from cluster.telemetry.request_metrics import RequestTimer
from router.request import RoutingRequest
from workers.request import GenerationRequest
from workers.tokenizer import Tokenizer

logger = logging.getLogger("ray.serve")

DRY_RUN = "dry-run"
READY_TIMEOUT_S = 1.0


class Pools(Workers, Protocol):
    """The pools as the front door sees them."""

    async def ask_all(self, make_question: Callable[[], RouteQuestion]) -> Json:
        """Ask the router of each pool. Raises TimeoutError where a pool has had no replica for a while."""

    async def reset_prefix_caches(self) -> list[str]:
        """Have every worker forget what it has cached. Returns the names of those that were not reached. Raises
        TimeoutError as above."""


class Frontend:
    """Validates, applies the chat template, tokenises, hashes; then lets the pools work and turns tokens into text."""

    def __init__(self, settings: FrontendSettings, tokenizer: Tokenizer, pools: Pools, sink: Sink) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._pools = pools
        self._sink = sink
        self._failures = RequestFailures()
        self._builder = RequestBuilder(settings, tokenizer)
        self._created = int(time.time())

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self._settings.model_name

    @property
    def num_resumed(self) -> int:
        """Times that a request went on after it had lost its worker."""
        return self._failures.num_resumed

    def models(self) -> Json:
        """The one model."""
        return {
            "object": "list",
            "data": [model_card(self._settings.model_name, self._created, self._settings.max_model_len)],
        }

    def model(self, name: str) -> Json:
        """One model by name."""
        self._builder.check_model(name)
        return model_card(name, self._created, self._settings.max_model_len)

    async def completions(self, body: CompletionBody, caller: Caller) -> Response:
        """Complete prompts."""
        return await self._answer(TextAnswer(body.model, await self._builder.echoed(body)), body, caller)

    async def chat_completions(self, body: ChatBody, caller: Caller) -> Response:
        """Continue a conversation, by default up to the end of the context."""
        return await self._answer(ChatAnswer(body.model), body, caller)

    async def tokenize(self, body: TokenizeBody) -> Json:
        """The tokens that a prompt or a conversation comes to."""
        tokens = await self._builder.tokens_for(body)
        strings = self._tokenizer.token_strings(tokens) if body.return_token_strs else None
        count, longest = len(tokens), self._settings.max_model_len
        return {"count": count, "max_model_len": longest, "tokens": tokens, "token_strs": strings}

    async def detokenize(self, body: DetokenizeBody) -> Json:
        """The text that tokens spell."""
        if body.model is not None:
            self._builder.check_model(body.model)
        self._builder.check_tokens(body.tokens, "tokens")
        return {"prompt": await off_loop(len(body.tokens), lambda: self._tokenizer.decode(body.tokens))}

    async def batch(self, body: ChatBody | CompletionBody, request_id: str, caller: Caller = ANYBODY) -> Batch:
        """The completions that a body asks for, charged and not begun. Raises ApiError where the model cannot do it, or
        the caller may not."""
        exchange = caller.exchange
        exchange.body = body
        timers = [RequestTimer(self._sink) for _ in range(body.num_prompts * body.num_drawn)]
        requests = await self._builder.build(body, request_id, caller)
        batch = self._batch(requests, body, timers)
        caller.charge(requests, body.num_drawn, lambda: batch.usage(0).num_total)
        exchange.answer_id, exchange.batch = request_id, batch
        return batch

    def usage(self, batch: Batch) -> Usage:
        """What it has come to so far."""
        return batch.usage(self._settings.block_size if self._settings.keeps_prefixes else 0)

    async def dry_run(self, body: ChatBody | CompletionBody, caller: Caller = ANYBODY) -> Json:
        """How the request would be routed now. Nothing is sent, charged or remembered."""
        request, *_ = await self._builder.build(body, DRY_RUN, caller)
        routed = RoutingRequest(DRY_RUN, request.block_hashes, len(request.prompt_token_ids), request.session)
        return await self._ask(lambda: RouteQuestion(routed))

    async def explain(self, request_id: str) -> Json:
        """Why a request was routed as it was, of this replica's last requests; without an id, the counts of all."""
        routed = await self._ask(lambda: RouteQuestion(request_id=request_id))
        if not any(routed.values()):
            message = f"{request_id!r} is not among the last requests that this replica has routed"
            raise ApiError(404, message, param="request_id", code="not_found")
        return routed

    async def reset_prefix_caches(self) -> None:
        """Have every worker forget what it has cached."""
        try:
            missed = await self._pools.reset_prefix_caches()
        except TimeoutError as error:
            raise ApiError(503, "a pool has no replicas yet; try again", code="overloaded") from error
        if missed:
            message = f"these workers could not be told: {', '.join(missed)}; the others have forgotten; try again"
            raise ApiError(503, message, code="overloaded")

    async def is_ready(self) -> bool:
        """Whether every pool has a replica."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._pools.ask_all(RouteQuestion)
        except TimeoutError:
            return False
        return True

    async def _ask(self, make_question: Callable[[], RouteQuestion]) -> Json:
        try:
            return await self._pools.ask_all(make_question)
        except TimeoutError as error:
            raise ApiError(503, "a pool has no replicas to route to yet; try again", code="overloaded") from error

    async def _answer(self, answer: Answer, body: ChatBody | CompletionBody, caller: Caller) -> Response:
        batch = await self.batch(body, answer.id, caller)
        pieces = batch.deltas()
        try:
            first = await anext(pieces)  # an error before the first text still gets its own HTTP status
            if not body.stream:
                drawn = await collected(first, pieces, batch.num_choices)
                return JSONResponse(answer.whole(likeliest(drawn, body), self.usage(batch)))
        except Exception as error:
            raise self.logged(error, caller.exchange) from error
        events = self._events(answer, caller.exchange, batch, first, pieces, body.include_usage)
        return EventStreamResponse(events, pieces)

    def _batch(
        self, requests: Sequence[GenerationRequest], body: ChatBody | CompletionBody, timers: Sequence[RequestTimer]
    ) -> Batch:
        unused = iter(timers)
        offer = self._builder.offer(body)
        prompts = [
            [
                Completion(one, self._tokenizer, body.stop_strings, next(unused), offer.text() if offer else None)
                for one in repeated(request, body.num_drawn)
            ]
            for request in requests
        ]
        return Batch(prompts, lambda one: Journey(one.request, self._pools, self._failures))

    async def _events(
        self,
        answer: Answer,
        exchange: Exchange,
        batch: Batch,
        first: ChoiceDelta,
        pieces: AsyncGenerator[ChoiceDelta],
        include_usage: bool,
    ) -> AsyncGenerator[str]:
        """Server-sent events; an error after the first byte is an event of its own, and no [DONE] follows it."""
        try:
            for chunk in answer.opening(batch.num_choices):
                yield sse(chunk)
            yield sse(answer.chunk(*first))
            async for piece in pieces:
                yield sse(answer.chunk(*piece))
            if include_usage:
                yield sse(answer.usage_chunk(self.usage(batch)))
            yield DONE
        except Exception as error:
            yield sse(self.logged(error, exchange).body())

    def logged(self, error: Exception, exchange: Exchange) -> ApiError:
        """What the client is told of an error; what nobody foresaw is logged with the request's ids."""
        told = from_exception(error)
        exchange.error = told.code
        if told.status >= 500:
            extra = {"request_id": exchange.request_id}
            logger.error("request %s failed", exchange.answer_id, exc_info=error, extra=extra)
        return told


def repeated(request: GenerationRequest, num_choices: int) -> Iterator[GenerationRequest]:
    """The request for each of its choices: ids and seeds of their own, so that they differ and can be drawn again."""
    yield request
    for index in range(1, num_choices):
        sampling = replace(request.sampling, seed=((request.sampling.seed or 0) + index) % 2**63)
        yield replace(request, request_id=f"{request.request_id}-{index}", sampling=sampling)


async def collected(first: ChoiceDelta, pieces: AsyncGenerator[ChoiceDelta], num_choices: int) -> list[TextDelta]:
    """The choices of a request that is not streamed, each whole."""
    deltas: list[list[TextDelta]] = [[] for _ in range(num_choices)]
    deltas[first.choice].append(first.delta)
    async for choice, delta in pieces:
        deltas[choice].append(delta)
    return [joined(one) for one in deltas]
