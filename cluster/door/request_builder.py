"""From a checked body to the engine's requests: what only the model can tell about it, tokens, hashes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from cluster.api.errors import ApiError
from cluster.api.messages import ChatMessage, conversation
from cluster.api.protocol import ChatBody, CompletionBody, GenerationBody
from cluster.api.tokenize_bodies import TokenizeBody
from cluster.door.caller import Caller
from cluster.door.frontend_settings import FrontendSettings
from cluster.tools.offer import ToolOffer, offer_of
from radix.block_hash import BlockHasher, token_bytes
from workers.control_tokens import strings_in
from workers.request import GenerationRequest
from workers.tokenizer import Tokenizer

Result = TypeVar("Result")
DEFAULT_COMPLETION_TOKENS = 16  # the API's own default for /v1/completions
LONG_TEXT = 8192  # characters, above which the event loop does not wait for the tokens: some 5 ms


class RequestBuilder:
    """Makes requests of bodies. Raises ApiError where the model cannot do what a body asks."""

    def __init__(self, settings: FrontendSettings, tokenizer: Tokenizer) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._hasher = BlockHasher(settings.namespace, settings.secret, settings.block_size, settings.vocab_size)
        self._max_characters = settings.max_model_len * tokenizer.longest_token

    def check_model(self, name: str) -> None:
        """Raise ApiError unless it is the model that is served."""
        if name != self._settings.model_name:
            message = f"the model {name[:256]!r} does not exist; this cluster serves {self._settings.model_name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raise ApiError where a list, which `param` names, holds a token that the model lacks."""
        if max(tokens, default=0) >= self._settings.vocab_size:
            place = next(index for index, token in enumerate(tokens) if token >= self._settings.vocab_size)
            raise self._no_such_token(f"{param}[{place}]")

    def _no_such_token(self, param: str) -> ApiError:
        message = f"{param}: token ids must be below {self._settings.vocab_size}, the size of the vocabulary"
        return ApiError(400, message, param=param, code="invalid_value")

    async def build(self, body: ChatBody | CompletionBody, request_id: str, caller: Caller) -> list[GenerationRequest]:
        """A request for each prompt, with ids of their own."""
        self._check_names(body)
        prompts = await self._tokenized(body)
        asked = [self._checked(body, tokens, place) for tokens, place in zip(prompts, places(body), strict=True)]
        ids = (f"{request_id}.{count}" if count else request_id for count in range(len(prompts)))
        return [
            self._request(body, tokens, max_tokens, one_id, caller)
            for one_id, tokens, max_tokens in zip(ids, prompts, asked, strict=True)
        ]

    async def echoed(self, body: CompletionBody) -> list[str]:
        """What each choice begins with, where its prompt is to be part of it; otherwise nothing at all."""
        if not body.echo:
            return []
        self._check_names(body)
        size = sum(map(len, body.prompts))
        texts = await off_loop(size, lambda: [self._text_of(prompt) for prompt in body.prompts])
        return [text for text in texts for _ in range(body.num_choices)]

    async def tokens_for(self, body: TokenizeBody) -> list[int]:
        """The tokens of a text or of a conversation."""
        if body.model is not None:
            self.check_model(body.model)
        if body.messages is not None:
            return await self._tokens_of_chat(body.messages)
        text = body.prompt or ""
        self._check_characters(len(text), "prompt")
        return await off_loop(len(text), lambda: self._tokenizer.encode(text, special=body.add_special_tokens))

    def offer(self, body: ChatBody | CompletionBody) -> ToolOffer | None:
        """The tools that the model may call; None where there are none."""
        if not isinstance(body, ChatBody) or not body.offered_tools:
            return None
        return offer_of(body.offered_tools, body.parallel_tool_calls is not False, self._tokenizer.tool_template)

    def _text_of(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _tokens_of(self, prompt: str | list[int]) -> list[int]:
        return self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt

    async def _tokenized(self, body: ChatBody | CompletionBody) -> list[list[int]]:
        if isinstance(body, ChatBody):
            return [await self._tokens_of_chat(body.messages, self.offer(body))]
        num_characters = sum(len(prompt) for prompt in body.prompts if isinstance(prompt, str))
        return await off_loop(num_characters, lambda: [self._tokens_of(prompt) for prompt in body.prompts])

    async def _tokens_of_chat(self, messages: Sequence[ChatMessage], offer: ToolOffer | None = None) -> list[int]:
        said, tools = conversation(messages), offer.tools if offer else None
        num_characters = sum(map(len, strings_in([said, tools])))
        self._check_characters(num_characters, "messages")
        return await off_loop(num_characters, lambda: self._tokenizer.encode_chat(said, tools))

    def _check_characters(self, num_characters: int, param: str) -> None:
        """Before they are tokenised: what is too long whatever its tokens are is not worth the time."""
        if num_characters > self._max_characters:
            message = f"a prompt of {num_characters} characters has more"
            raise ApiError(400, self._context(message), param=param, code="context_length_exceeded")

    def _checked(self, body: ChatBody | CompletionBody, tokens: list[int], param: str) -> int:
        """How many tokens to generate. Without a limit of its own a completion gets the API's, a chat all of the
        context."""
        room = self._check_room(tokens, param)
        limit, max_tokens = limit_of(body, room)
        if max_tokens > room:
            message = (
                f"the prompt has {len(tokens)} and {limit} asks for {max_tokens} more. Shorten the prompt or lower it"
            )
            raise ApiError(400, self._context(message), param=limit, code="context_length_exceeded")
        return max_tokens

    def _check_room(self, tokens: list[int], param: str) -> int:
        """How many tokens an answer may have. Raises ApiError where that is none, and where the model lacks one."""
        room = self._settings.max_model_len - len(tokens)
        if room < 1:
            message = f"the prompt has {len(tokens)}, which leaves none for an answer. Shorten it"
            raise ApiError(400, self._context(message), param=param, code="context_length_exceeded")
        self.check_tokens(tokens, param)
        return room

    def _context(self, message: str) -> str:
        return f"this model's context is {self._settings.max_model_len} tokens; {message}"

    def _check_names(self, body: ChatBody | CompletionBody) -> None:
        """The model, the tokens and the lengths that can be told without tokenising anything."""
        self.check_model(body.model)
        if max(map(int, body.logit_bias or ()), default=0) >= self._settings.vocab_size:
            raise self._no_such_token("logit_bias")
        self.check_tokens(body.stop_token_ids or [], "stop_token_ids")
        if isinstance(body, CompletionBody):
            for prompt, place in zip(body.prompts, places(body), strict=True):
                if isinstance(prompt, str):
                    self._check_characters(len(prompt), place)
                else:
                    self._check_room(prompt, place)

    def _request(
        self, body: GenerationBody, tokens: list[int], max_tokens: int, request_id: str, caller: Caller
    ) -> GenerationRequest:
        salt = caller.cache_salt(body.cache_salt)
        hashes, _ = self._hasher.hash_blocks(token_bytes(tokens), self._hasher.start(salt))
        return GenerationRequest(
            request_id,
            tuple(tokens),
            body.sampling(max_tokens),
            tuple(hashes),
            caller.session or body.session,
            timeout_s=self._settings.request_timeout_s,
            cache_salt=salt,
        )


def limit_of(body: ChatBody | CompletionBody, room: int) -> tuple[str, int]:
    """The field that says how many tokens to generate, and what it says or would say."""
    if isinstance(body, CompletionBody):
        return "max_tokens", body.max_tokens or DEFAULT_COMPLETION_TOKENS
    if body.max_completion_tokens is not None:
        return "max_completion_tokens", body.max_completion_tokens
    return "max_tokens", body.max_tokens or room


def places(body: ChatBody | CompletionBody) -> list[str]:
    """What errors call each prompt."""
    if isinstance(body, ChatBody):
        return ["messages"]
    return [f"prompt[{index}]" for index in range(body.num_prompts)] if body.num_prompts > 1 else ["prompt"]


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """Do what takes long in a thread, so that others' requests go on meanwhile. `size` is in characters or tokens."""
    return await asyncio.to_thread(work) if size > LONG_TEXT else work()
