"""The OpenAI API's responses: how a completion is laid out, whole or as the chunks of a stream."""

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from cluster.text_delta import NOTHING, TextDelta
from cluster.token_logprobs import Json, chat_logprobs, text_logprobs

__all__ = ["Answer", "ChatAnswer", "Json", "TextAnswer", "model_card", "usage"]


class Answer(Protocol):
    """A request's completions on their way to a client. `id` is its name to the client, the engines and the routers."""

    id: str

    def whole(self, choices: Sequence[TextDelta], used: Json) -> Json:
        """All of it at once, the choices in order."""

    def opening(self, num_choices: int) -> list[Json]:
        """Chunks before the first text."""

    def chunk(self, index: int, piece: TextDelta) -> Json:
        """One piece of a stream, of one of the choices."""

    def usage_chunk(self, used: Json) -> Json:
        """The last piece of a stream that reports usage."""


class TextAnswer:
    """The answer to /v1/completions."""

    def __init__(self, model: str) -> None:
        self.id = f"cmpl-{uuid.uuid4().hex}"
        self._head = head(self.id, "text_completion", model)
        self._offsets: Counter[int] = Counter()  # characters of a choice's tokens before

    def whole(self, choices: Sequence[TextDelta], used: Json) -> Json:
        """All of it at once, the choices in order."""
        return self._head | {"choices": [self._choice(*one) for one in enumerate(choices)], "usage": used}

    def opening(self, num_choices: int) -> list[Json]:
        """Chunks before the first text: none."""
        return []

    def chunk(self, index: int, piece: TextDelta) -> Json:
        """One piece of a stream, of one of the choices."""
        return self._head | {"choices": [self._choice(index, piece)], "usage": None}

    def usage_chunk(self, used: Json) -> Json:
        """The last piece of a stream that reports usage."""
        return self._head | {"choices": [], "usage": used}

    def _choice(self, index: int, piece: TextDelta) -> Json:
        tokens = piece.tokens
        logprobs = None if tokens is None else text_logprobs(tokens, self._offsets[index])
        self._offsets[index] += sum(len(token.drawn.text) for token in tokens or ())
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish_reason}


class ChatAnswer:
    """The answer to /v1/chat/completions."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._whole_head = head(self.id, "chat.completion", model)
        self._chunk_head = head(self.id, "chat.completion.chunk", model)

    def whole(self, choices: Sequence[TextDelta], used: Json) -> Json:
        """All of it at once, the choices in order."""
        messages = [{"role": "assistant", "content": one.text, "refusal": None} for one in choices]
        listed = [choice(index, one, "message", messages[index]) for index, one in enumerate(choices)]
        return self._whole_head | {"choices": listed, "usage": used}

    def opening(self, num_choices: int) -> list[Json]:
        """The chunks that name the role."""
        return [self._chunk(index, NOTHING, {"role": "assistant", "content": ""}) for index in range(num_choices)]

    def chunk(self, index: int, piece: TextDelta) -> Json:
        """One piece of a stream, of one of the choices."""
        return self._chunk(index, piece, {"content": piece.text} if piece.text else {})

    def usage_chunk(self, used: Json) -> Json:
        """The last piece of a stream that reports usage."""
        return self._chunk_head | {"choices": [], "usage": used}

    def _chunk(self, index: int, piece: TextDelta, delta: Json) -> Json:
        return self._chunk_head | {"choices": [choice(index, piece, "delta", delta)], "usage": None}


def choice(index: int, piece: TextDelta, name: str, content: Json) -> Json:
    """An entry of a chat completion's choices."""
    logprobs = None if piece.tokens is None else chat_logprobs(piece.tokens)
    return {"index": index, name: content, "logprobs": logprobs, "finish_reason": piece.finish_reason}


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
