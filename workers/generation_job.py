"""A prompt on its way through an engine: collects the outputs of its completions and their text."""

from workers.generation import CompletionOutput, Generation, Logprob
from workers.request import FinishReason, GenerationRequest, RequestOutput, SamplingParams, TokenLogprobs
from workers.text_stream import TextStream
from workers.tokenizer import Tokenizer


class Choice:
    """One completion as it grows.

    Attributes:
        finish_reason: set once it has ended, by a stop string too.
    """

    def __init__(self, tokenizer: Tokenizer, sampling: SamplingParams) -> None:
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, sampling.stop, sampling.min_tokens)
        self._pieces: list[str] = []
        self._logprobs: list[dict[int, Logprob]] | None = None if sampling.logprobs is None else []
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None

    def take(self, output: RequestOutput) -> str:
        """Take new tokens in and return the new text. What comes after the end is left out."""
        if self.finish_reason is not None:
            return ""
        self.token_ids += output.token_ids
        if self._logprobs is not None:
            pairs = zip(output.token_ids, output.logprobs or (), strict=True)
            self._logprobs += [self._decoded(token, logprobs) for token, logprobs in pairs]
        stopped = output.finish_reason is FinishReason.STOP  # by its last token, which is no part of the text
        spoken = output.token_ids[:-1] if stopped else output.token_ids
        text = self._text.push(spoken, last=output.finish_reason is not None)
        self.finish_reason = FinishReason.STOP if self._text.stopped else output.finish_reason
        self._pieces.append(text)
        return text

    def result(self, index: int) -> CompletionOutput:
        """All of it."""
        logprobs = None if self._logprobs is None else tuple(self._logprobs)
        return CompletionOutput(index, "".join(self._pieces), tuple(self.token_ids), logprobs, self.finish_reason)

    def _decoded(self, token: int, logprobs: TokenLogprobs) -> dict[int, Logprob]:
        """The drawn token first, then the likeliest in order."""
        ranked = {token: (logprobs.logprob, logprobs.rank)}
        for rank, (other, logprob) in enumerate(logprobs.top, start=1):
            ranked.setdefault(other, (logprob, rank))
        return {token: Logprob(*place, self._tokenizer.decode([token])) for token, place in ranked.items()}


class GenerationJob:
    """A request and its `n` completions.

    Args:
        prompt: the prompt's text, where it was given as one.
    """

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, prompt: str | None = None) -> None:
        self.request = request
        self._prompt = prompt
        self._choices = [Choice(tokenizer, request.sampling) for _ in range(request.sampling.n)]
        self._num_cached_tokens = 0

    @property
    def finished(self) -> bool:
        """Whether all completions have ended."""
        return all(choice.finish_reason is not None for choice in self._choices)

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return sum(len(choice.token_ids) for choice in self._choices)

    def take(self, output: RequestOutput) -> str:
        """Take an output of the request in and return the new text of its completion."""
        if output.index == 0:
            self._num_cached_tokens = output.num_cached_tokens
        return self._choices[output.index].take(output)

    def result(self) -> Generation:
        """The prompt and its completions."""
        outputs = tuple(choice.result(index) for index, choice in enumerate(self._choices))
        return Generation(self._prompt, self.request.prompt_token_ids, outputs, self._num_cached_tokens)
