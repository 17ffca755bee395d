"""One request's way through the pools, from tokens to text."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from cluster.answers import Json, usage
from cluster.journey import Journey
from cluster.request_metrics import ABORT, ERROR, RequestTimer
from cluster.token_logprobs import DrawnToken, drawn_tokens
from workers.request import FinishReason, GenerationRequest, RequestOutput
from workers.text_stream import TextStream
from workers.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextDelta:
    """New text of a completion; the last one says why it ended.

    Attributes:
        tokens: what the text is made of, where log-probabilities were asked for; None where they were not.
    """

    text: str
    finish_reason: str | None
    tokens: tuple[DrawnToken, ...] | None = None


class Completion:
    """A request being answered, and its usage so far."""

    def __init__(
        self, request: GenerationRequest, tokenizer: Tokenizer, stop: Sequence[str], timer: RequestTimer
    ) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, stop, request.sampling.min_tokens)
        self._pending: list[DrawnToken] = []
        self._timer = timer
        self._num_tokens = 0
        self._num_cached_tokens = 0

    async def deltas(self, journey: Journey) -> AsyncGenerator[TextDelta]:
        """The completion piece by piece. Stops the request at a stop string; closing it aborts the request."""
        ending = ABORT  # unless it comes to another end before it is closed
        try:
            async with aclosing(journey.outputs()) as outputs:
                async for output in outputs:
                    delta = self._take(output)
                    ending = delta.finish_reason or ending
                    if delta.text or delta.finish_reason:
                        yield self._with_tokens(delta)
                    if delta.finish_reason:
                        return
        except Exception:
            ending = ERROR
            raise
        finally:
            self._timer.end(ending, len(self._request.prompt_token_ids))

    def usage(self) -> Json:
        """The usage object of the API."""
        return usage(len(self._request.prompt_token_ids), self._num_tokens, self._num_cached_tokens)

    def _take(self, output: RequestOutput) -> TextDelta:
        self._num_tokens += len(output.token_ids)
        self._timer.take_tokens(len(output.token_ids))
        self._num_cached_tokens = output.num_cached_tokens
        self._pending += drawn_tokens(output, self._tokenizer)
        text = self._text.push(output.token_ids, last=output.finish_reason is not None)
        return TextDelta(text, FinishReason.STOP.value if self._text.stopped else output.finish_reason)

    def _with_tokens(self, delta: TextDelta) -> TextDelta:
        """With the tokens since the last one, those of text that was held back included."""
        if self._request.sampling.logprobs is None:
            return delta
        tokens, self._pending = tuple(self._pending), []
        return replace(delta, tokens=tokens)
