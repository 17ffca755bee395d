"""What `LLM` gives back, under the names that vLLM's users know.

`Generation` is vLLM's RequestOutput; that name is taken here by the increments that an engine gives out
(`workers.request.RequestOutput`). `CompletionOutput` and `Logprob` are called the same in both.
"""

from dataclasses import dataclass

from workers.request import FinishReason


@dataclass(frozen=True)
class Logprob:
    """One token's log-probability under the model's own distribution.

    Attributes:
        logprob: natural logarithm of its probability.
        rank: its place among all tokens, the likeliest being 1.
        decoded_token: its text by itself; "" for a special token.
    """

    logprob: float
    rank: int
    decoded_token: str


@dataclass(frozen=True)
class CompletionOutput:
    """One completion of a prompt.

    Attributes:
        index: which of the `n` completions of its prompt it is.
        text: without a token or string that stopped it, and without special tokens.
        token_ids: all that were generated, those that stopped it included.
        logprobs: for each token a mapping from it and the likeliest ones; None where they were not asked for.
        finish_reason: STOP or LENGTH.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[dict[int, Logprob], ...] | None
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Generation:
    """A prompt and its completions.

    Attributes:
        prompt: its text; None where it was given as tokens or as messages.
        outputs: `n` completions by index.
        num_cached_tokens: prompt tokens whose KV came from the prefix cache.
    """

    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    num_cached_tokens: int
