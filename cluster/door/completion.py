"""One request's way through the pools, from tokens to text."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from cluster.api.text_delta import TextDelta
from cluster.api.token_logprobs import DrawnToken, drawn_tokens
from cluster.door.journey import Journey
from cluster.door.leg import Leg
from cluster.telemetry.request_metrics import ABORT, ERROR, RequestTimer
from cluster.tools.tool_text import ToolText
from workers.request import FinishReason, GenerationRequest, RequestOutput
from workers.text_stream import TextStream
from workers.tokenizer import Tokenizer


class Completion:
    """A request being answered, and its usage so far.

    Args:
        tool_text: takes calls of tools out of the text, where there are tools.

    Attributes:
        request: it.
        num_tokens: generated so far.
        num_cached_tokens: of the prompt, whose KV was not computed again.
        ending: how it ended: a finish reason of the API, `ABORT` or `ERROR`; empty until it has begun and ended.
        legs: its calls to workers.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        timer: RequestTimer,
        tool_text: ToolText | None = None,
    ) -> None:
        self.request = request
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, stop, request.sampling.min_tokens)
        self._pending: list[DrawnToken] = []
        self._timer = timer
        self._tool_text = tool_text
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.ending = ""
        self.legs: Sequence[Leg] = ()

    async def deltas(self, journey: Journey) -> AsyncGenerator[TextDelta]:
        """The completion piece by piece. Stops the request at a stop string; closing it aborts the request."""
        ending = ABORT  # unless it comes to another end before it is closed
        self.legs = journey.legs
        try:
            async with aclosing(journey.outputs()) as outputs:
                async for output in outputs:
                    delta = self._take(output)
                    ending = delta.finish_reason or ending
                    if delta.text or delta.calls or delta.finish_reason:
                        yield self._with_tokens(delta)
                    if delta.finish_reason:
                        return
        except Exception:
            ending = ERROR
            raise
        finally:
            self.ending = ending
            self._timer.end(ending, len(self.request.prompt_token_ids))

    @property
    def num_prompt_tokens(self) -> int:
        """Of the request."""
        return len(self.request.prompt_token_ids)

    def _take(self, output: RequestOutput) -> TextDelta:
        self.num_tokens += len(output.token_ids)
        self._timer.take_tokens(len(output.token_ids))
        self.num_cached_tokens = output.num_cached_tokens
        self._pending += drawn_tokens(output, self._tokenizer)
        text = self._text.push(output.token_ids, last=output.finish_reason is not None)
        delta = TextDelta(text, FinishReason.STOP.value if self._text.stopped else output.finish_reason)
        return delta if self._tool_text is None else self._tool_text.read(delta)

    def _with_tokens(self, delta: TextDelta) -> TextDelta:
        """With the tokens since the last one, those of text that was held back included."""
        if self.request.sampling.logprobs is None:
            return delta
        tokens, self._pending = tuple(self._pending), []
        return replace(delta, tokens=tokens)
