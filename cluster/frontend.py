"""The front door: OpenAI requests in, tokens to the pools, text back. Knows nothing of Serve's replicas."""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from fastapi.responses import JSONResponse
from starlette.responses import Response

from cluster.answers import Answer, ChatAnswer, Json, TextAnswer, model_card
from cluster.choices import ChoiceDelta, Choices
from cluster.completion import Completion
from cluster.errors import ApiError, from_exception
from cluster.event_stream import DONE, EventStreamResponse, sse
from cluster.failures import RequestFailures
from cluster.journey import Journey, Workers
from cluster.messages import conversation
from cluster.metric_sink import Sink
from cluster.protocol import ChatBody, CompletionBody, GenerationBody
from cluster.request_metrics import RequestTimer
from cluster.route_question import RouteQuestion
from cluster.text_delta import TextDelta, joined
from cluster.tools.offer import ToolOffer, offer_of
from radix.block_hash import BlockHasher, token_bytes
from router.request import RoutingRequest
from workers.request import GenerationRequest
from workers.tokenizer import Tokenizer

logger = logging.getLogger("ray.serve")

DRY_RUN = "dry-run"
DEFAULT_COMPLETION_TOKENS = 16  # the API's own default for /v1/completions


@dataclass(frozen=True)
class FrontendSettings:
    """What the front door knows of the model.

    Attributes:
        model: directory or Hub id, for its tokenizer.
        model_name: what clients call it.
        max_model_len: tokens that prompt and completion may have together.
        namespace: of the workers' KV (`workers.engine.build.kv_namespace`).
        secret: the cluster's key for block hashes.
        token: admits to the workers' own ports.
        request_timeout_s: from a request's arrival to its last token.
        local_prefill_tokens: what a decode worker computes of a prompt itself, at most.
    """

    model: str
    model_name: str
    max_model_len: int
    vocab_size: int
    block_size: int
    namespace: str
    secret: bytes = field(repr=False)
    token: str = field(repr=False)
    request_timeout_s: float
    local_prefill_tokens: int


class Pools(Workers, Protocol):
    """The pools as the front door sees them."""

    async def ask_all(self, make_question: Callable[[], RouteQuestion]) -> Json:
        """Ask the router of each pool. Raises TimeoutError where a pool has had no replica for a while."""


class Frontend:
    """Validates, applies the chat template, tokenises, hashes; then lets the pools work and turns tokens into text."""

    def __init__(self, settings: FrontendSettings, tokenizer: Tokenizer, pools: Pools, sink: Sink) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._pools = pools
        self._sink = sink
        self._failures = RequestFailures()
        self._hasher = BlockHasher(settings.namespace, settings.secret, settings.block_size, settings.vocab_size)
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
        self._check_model(name)
        return model_card(name, self._created, self._settings.max_model_len)

    async def completions(self, body: CompletionBody, session: str | None = None) -> Response:
        """Complete a prompt. `session` is what the client calls its conversation outside the body."""
        return await self._answer(TextAnswer(body.model), body, session)

    async def chat_completions(self, body: ChatBody, session: str | None = None) -> Response:
        """Continue a conversation, by default up to the end of the context."""
        return await self._answer(ChatAnswer(body.model), body, session)

    async def dry_run(self, body: ChatBody | CompletionBody, session: str | None = None) -> Json:
        """How the request would be routed now. Nothing is sent, charged or remembered."""
        request = self._request_for(body, DRY_RUN, session)
        routed = RoutingRequest(DRY_RUN, request.block_hashes, len(request.prompt_token_ids), request.session)
        return await self._ask(lambda: RouteQuestion(routed))

    async def explain(self, request_id: str) -> Json:
        """Why a request was routed as it was, of this replica's last requests; without an id, the counts of all."""
        routed = await self._ask(lambda: RouteQuestion(request_id=request_id))
        if not any(routed.values()):
            message = f"{request_id!r} is not among the last requests that this replica has routed"
            raise ApiError(404, message, param="request_id", code="not_found")
        return routed

    async def _ask(self, make_question: Callable[[], RouteQuestion]) -> Json:
        try:
            return await self._pools.ask_all(make_question)
        except TimeoutError as error:
            raise ApiError(503, "a pool has no replicas to route to yet; try again", code="overloaded") from error

    def _request_for(self, body: ChatBody | CompletionBody, request_id: str, session: str | None) -> GenerationRequest:
        """The engine's request. Without a limit of its own a completion gets the API's, a chat all of the context."""
        self._check_model(body.model)
        if isinstance(body, ChatBody):
            offer = self._offer(body)
            tokens = self._tokenizer.encode_chat(conversation(body.messages), offer.tools if offer else None)
            room = self._settings.max_model_len - len(tokens)
            max_tokens = body.max_completion_tokens or body.max_tokens or max(room, 1)
        else:
            tokens = self._tokenizer.encode(body.prompt) if isinstance(body.prompt, str) else body.prompt
            max_tokens = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        return self._request(body, tokens, max_tokens, request_id, session or body.session)

    def _offer(self, body: ChatBody) -> ToolOffer | None:
        if not body.offered_tools:
            return None
        return offer_of(body.offered_tools, body.parallel_tool_calls is not False, self._tokenizer.tool_template)

    def _check_model(self, name: str) -> None:
        if name != self._settings.model_name:
            message = f"the model {name!r} does not exist; this cluster serves {self._settings.model_name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def _request(
        self, body: GenerationBody, tokens: list[int], max_tokens: int, request_id: str, session: str | None
    ) -> GenerationRequest:
        """Check the sizes and make the engine's request, its prompt hashed for the routers."""
        longest = self._settings.max_model_len
        if len(tokens) + max_tokens > longest:
            message = (
                f"this model's context is {longest} tokens; the prompt has {len(tokens)} and max_tokens asks for "
                f"{max_tokens} more. Shorten the prompt or lower max_tokens"
            )
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        if max(tokens) >= self._settings.vocab_size:
            message = f"token ids must be below {self._settings.vocab_size}, the size of the vocabulary"
            raise ApiError(400, message, param="prompt", code="invalid_value")
        hashes, _ = self._hasher.hash_blocks(token_bytes(tokens))
        return GenerationRequest(
            request_id,
            tuple(tokens),
            body.sampling(max_tokens),
            tuple(hashes),
            session,
            timeout_s=self._settings.request_timeout_s,
        )

    async def _answer(self, answer: Answer, body: ChatBody | CompletionBody, session: str | None) -> Response:
        timers = [RequestTimer(self._sink) for _ in range(body.num_choices)]
        request = self._request_for(body, answer.id, session)
        offer = self._offer(body) if isinstance(body, ChatBody) else None
        completions = [
            Completion(one, self._tokenizer, body.stop_strings, timer, offer.text() if offer else None)
            for one, timer in zip(repeated(request, body.num_choices), timers, strict=True)
        ]
        choices = Choices(completions, lambda one: Journey(one.request, self._pools, self._failures))
        pieces = choices.deltas()
        try:
            first = await anext(pieces)  # an error before the first text still gets its own HTTP status
            if not body.stream:
                return JSONResponse(answer.whole(await collected(first, pieces, body.num_choices), choices.usage()))
        except Exception as error:
            raise self._logged(error, answer.id) from error
        return EventStreamResponse(self._events(answer, choices, first, pieces, body.include_usage), pieces)

    async def _events(
        self,
        answer: Answer,
        choices: Choices,
        first: ChoiceDelta,
        pieces: AsyncGenerator[ChoiceDelta],
        include_usage: bool,
    ) -> AsyncGenerator[str]:
        """Server-sent events; an error after the first byte is an event of its own, and no [DONE] follows it."""
        try:
            for chunk in answer.opening(choices.num_choices):
                yield sse(chunk)
            yield sse(answer.chunk(*first))
            async for piece in pieces:
                yield sse(answer.chunk(*piece))
            if include_usage:
                yield sse(answer.usage_chunk(choices.usage()))
            yield DONE
        except Exception as error:
            yield sse(self._logged(error, answer.id).body())

    def _logged(self, error: Exception, request_id: str) -> ApiError:
        """What the client is told of an error; what nobody foresaw is logged with the request's id."""
        told = from_exception(error)
        if told.status >= 500:
            logger.error("request %s failed", request_id, exc_info=error)
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
