"""One request's way through the pools, from tokens to text."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from cluster.answers import Json, usage
from cluster.journey import Journey
from cluster.request_metrics import ABORT, ERROR, RequestTimer
from workers.request import FinishReason, GenerationRequest, RequestOutput
from workers.text_stream import TextStream
from workers.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextDelta:
    """New text of a completion; the last one says why it ended."""

    text: str
    finish_reason: str | None


class Completion:
    """A request being answered, and its usage so far."""

    def __init__(
        self, request: GenerationRequest, tokenizer: Tokenizer, stop: Sequence[str], timer: RequestTimer
    ) -> None:
        self._request = request
        self._text = TextStream(tokenizer, stop)
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
                        yield delta
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
        text = self._text.push(output.token_ids, last=output.finish_reason is not None)
        return TextDelta(text, FinishReason.STOP.value if self._text.stopped else output.finish_reason)
