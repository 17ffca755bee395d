"""The OpenAI API's responses: how a completion is laid out, whole or as the chunks of a stream."""

import time
import uuid
from collections.abc import Sequence
from typing import Protocol

from cluster.token_logprobs import DrawnToken, Json, chat_logprobs, text_logprobs

__all__ = ["Answer", "ChatAnswer", "Json", "TextAnswer", "Tokens", "model_card", "usage"]

Tokens = Sequence[DrawnToken] | None


class Answer(Protocol):
    """One completion on its way to a client. `id` names it to the client, the engines and the routers alike."""

    id: str

    def whole(self, text: str, finish_reason: str, used: Json, tokens: Tokens = None) -> Json:
        """All of it at once."""

    def opening(self) -> list[Json]:
        """Chunks before the first text."""

    def chunk(self, text: str, finish_reason: str | None, tokens: Tokens = None) -> Json:
        """One piece of a stream. `tokens` are None where log-probabilities were not asked for."""

    def usage_chunk(self, used: Json) -> Json:
        """The last piece of a stream that reports usage."""


class TextAnswer:
    """The answer to /v1/completions."""

    def __init__(self, model: str) -> None:
        self.id = f"cmpl-{uuid.uuid4().hex}"
        self._head = head(self.id, "text_completion", model)
        self._offset = 0  # characters of the tokens before

    def whole(self, text: str, finish_reason: str, used: Json, tokens: Tokens = None) -> Json:
        """All of it at once."""
        return self.chunk(text, finish_reason, tokens) | {"usage": used}

    def opening(self) -> list[Json]:
        """Chunks before the first text: none."""
        return []

    def chunk(self, text: str, finish_reason: str | None, tokens: Tokens = None) -> Json:
        """One piece of a stream."""
        logprobs = None if tokens is None else text_logprobs(tokens, self._offset)
        self._offset += sum(len(token.drawn.text) for token in tokens or ())
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head | {"choices": [choice], "usage": None}

    def usage_chunk(self, used: Json) -> Json:
        """The last piece of a stream that reports usage."""
        return self._head | {"choices": [], "usage": used}


class ChatAnswer:
    """The answer to /v1/chat/completions."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._whole_head = head(self.id, "chat.completion", model)
        self._chunk_head = head(self.id, "chat.completion.chunk", model)

    def whole(self, text: str, finish_reason: str, used: Json, tokens: Tokens = None) -> Json:
        """All of it at once."""
        message = {"role": "assistant", "content": text, "refusal": None}
        logprobs = None if tokens is None else chat_logprobs(tokens)
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._whole_head | {"choices": [choice], "usage": used}

    def opening(self) -> list[Json]:
        """The chunk that names the role."""
        return [self._chunk({"role": "assistant", "content": ""}, None, None)]

    def chunk(self, text: str, finish_reason: str | None, tokens: Tokens = None) -> Json:
        """One piece of a stream."""
        return self._chunk({"content": text} if text else {}, finish_reason, tokens)

    def usage_chunk(self, used: Json) -> Json:
        """The last piece of a stream that reports usage."""
        return self._chunk_head | {"choices": [], "usage": used}

    def _chunk(self, delta: Json, finish_reason: str | None, tokens: Tokens) -> Json:
        logprobs = None if tokens is None else chat_logprobs(tokens)
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._chunk_head | {"choices": [choice], "usage": None}


def head(answer_id: str, kind: str, model: str) -> Json:
    """What every object of an answer begins with."""
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model}


def usage(num_prompt: int, num_completion: int, num_cached: int) -> Json:
    """The usage object; cached tokens are prompt tokens whose KV was not computed again."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }


def model_card(name: str, created: int, max_model_len: int) -> Json:
    """An entry of /v1/models; `max_model_len` is an addition that vLLM has too."""
    card = {"id": name, "object": "model", "created": created, "owned_by": "raydix"}
    return card | {"max_model_len": max_model_len}
