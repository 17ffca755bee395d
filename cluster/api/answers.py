"""The OpenAI API's responses: how a completion is laid out, whole or as the chunks of a stream."""

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cluster.api.text_delta import NOTHING, TextDelta
from cluster.api.token_logprobs import Json, chat_logprobs, text_logprobs
from cluster.tools.tool_call import ToolCall
from workers.request import FinishReason

__all__ = ["Answer", "ChatAnswer", "Json", "TextAnswer", "Usage", "model_card"]


class Usage(NamedTuple):
    """Tokens of an answer.

    Attributes:
        num_cached: of the prompt, whose KV was not computed again.
        num_written: of the prompt, whose KV a cache keeps now and did not before.
    """

    num_prompt: int
    num_completion: int
    num_cached: int
    num_written: int

    @property
    def num_total(self) -> int:
        """Of prompts and completions."""
        return self.num_prompt + self.num_completion

    def as_json(self) -> Json:
        """The usage object."""
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_completion,
            "total_tokens": self.num_total,
            "prompt_tokens_details": {"cached_tokens": self.num_cached, "cache_write_tokens": self.num_written},
        }


class Answer(Protocol):
    """A request's completions on their way to a client. `id` is its name to the client, the engines and the routers."""

    id: str

    def whole(self, choices: Sequence[TextDelta], used: Usage) -> Json:
        """All of it at once, the choices in order."""

    def opening(self, num_choices: int) -> list[Json]:
        """Chunks before the first text."""

    def chunk(self, index: int, piece: TextDelta) -> Json:
        """One piece of a stream, of one of the choices."""

    def usage_chunk(self, used: Usage) -> Json:
        """The last piece of a stream that reports usage."""


class TextAnswer:
    """The answer to /v1/completions.

    Args:
        echoed: what each choice's text begins with, where the prompt is to be part of it.
    """

    def __init__(self, model: str, echoed: Sequence[str] = ()) -> None:
        self._echoed = dict(enumerate(echoed))
        self.id = f"cmpl-{uuid.uuid4().hex}"
        self._head = head(self.id, "text_completion", model)
        self._offsets: Counter[int] = Counter()  # characters of a choice's tokens before

    def whole(self, choices: Sequence[TextDelta], used: Usage) -> Json:
        """All of it at once, the choices in order."""
        return self._head | {"choices": [self._choice(*one) for one in enumerate(choices)], "usage": used.as_json()}

    def opening(self, num_choices: int) -> list[Json]:
        """Chunks before the first text: none."""
        return []

    def chunk(self, index: int, piece: TextDelta) -> Json:
        """One piece of a stream, of one of the choices."""
        return self._head | {"choices": [self._choice(index, piece)], "usage": None}

    def usage_chunk(self, used: Usage) -> Json:
        """The last piece of a stream that reports usage."""
        return self._head | {"choices": [], "usage": used.as_json()}

    def _choice(self, index: int, piece: TextDelta) -> Json:
        tokens = piece.tokens
        logprobs = None if tokens is None else text_logprobs(tokens, self._offsets[index])
        self._offsets[index] += sum(len(token.drawn.text) for token in tokens or ())
        text = self._echoed.pop(index, "") + piece.text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish_reason}


class ChatAnswer:
    """The answer to /v1/chat/completions."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._whole_head = head(self.id, "chat.completion", model)
        self._chunk_head = head(self.id, "chat.completion.chunk", model)
        self._num_calls: Counter[int] = Counter()  # of tools, in a choice so far

    def whole(self, choices: Sequence[TextDelta], used: Usage) -> Json:
        """All of it at once, the choices in order."""
        listed = [choice(index, one, "message", message(one), bool(one.calls)) for index, one in enumerate(choices)]
        return self._whole_head | {"choices": listed, "usage": used.as_json()}

    def opening(self, num_choices: int) -> list[Json]:
        """The chunks that name the role."""
        return [self._chunk(index, NOTHING, {"role": "assistant", "content": ""}) for index in range(num_choices)]

    def chunk(self, index: int, piece: TextDelta) -> Json:
        """One piece of a stream, of one of the choices."""
        first = self._num_calls[index]
        self._num_calls[index] += len(piece.calls)
        listed = [{"index": first + place} | called(call) for place, call in enumerate(piece.calls)]
        return self._chunk(
            index, piece, ({"content": piece.text} if piece.text else {}) | ({"tool_calls": listed} if listed else {})
        )

    def usage_chunk(self, used: Usage) -> Json:
        """The last piece of a stream that reports usage."""
        return self._chunk_head | {"choices": [], "usage": used.as_json()}

    def _chunk(self, index: int, piece: TextDelta, delta: Json) -> Json:
        listed = choice(index, piece, "delta", delta, self._num_calls[index] > 0)
        return self._chunk_head | {"choices": [listed], "usage": None}


def message(whole: TextDelta) -> Json:
    """What the assistant says and calls."""
    said: Json = {"role": "assistant", "content": whole.text, "refusal": None}
    if whole.calls:
        said |= {"content": whole.text or None, "tool_calls": [called(call) for call in whole.calls]}
    return said


def called(call: ToolCall) -> Json:
    """A call under a name of its own, by which a tool's message refers to it."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def choice(index: int, piece: TextDelta, name: str, content: Json, has_calls: bool) -> Json:
    """An entry of a chat completion's choices. One that has called tools ends because of them, unless it was cut."""
    logprobs = None if piece.tokens is None else chat_logprobs(piece.tokens)
    reason = "tool_calls" if has_calls and piece.finish_reason == FinishReason.STOP else piece.finish_reason
    return {"index": index, name: content, "logprobs": logprobs, "finish_reason": reason}


def head(answer_id: str, kind: str, model: str) -> Json:
    """What every object of an answer begins with."""
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": model}


def model_card(name: str, created: int, max_model_len: int) -> Json:
    """An entry of /v1/models; `max_model_len` is an addition that vLLM has too."""
    card = {"id": name, "object": "model", "created": created, "owned_by": "raydix"}
    return card | {"max_model_len": max_model_len}
