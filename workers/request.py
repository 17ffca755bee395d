"""The nouns at the engine's door: what a request asks for and what comes back. Free of torch and of Ray."""

from dataclasses import dataclass
from enum import StrEnum

from workers.sampling_params import SamplingParams
from workers.validation import RequestError

__all__ = [
    "FinishReason",
    "GenerationRequest",
    "RequestError",
    "RequestOutput",
    "SampledToken",
    "SamplingParams",
    "TokenLogprobs",
]


class FinishReason(StrEnum):
    """Why a sequence ended. STOP: a token or string that stops it. LENGTH: max_tokens. ABORT: the client went away."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt to complete.

    Attributes:
        request_id: unique among the requests in flight.
        prompt_token_ids: at least one token.
        sampling: how to draw the completion.
        block_hashes: the chained hashes of the prompt's full blocks, computed once at the door for the routers.
        session: what the client calls its conversation, for routers that keep one together.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    block_hashes: tuple[int, ...] = ()
    session: str | None = None


@dataclass(frozen=True)
class TokenLogprobs:
    """How likely a drawn token was under the model's own distribution, before anything was done to its logits.

    Attributes:
        logprob: natural logarithm of its probability.
        rank: its place among all tokens, the likeliest being 1.
        top: token id and log-probability of the likeliest tokens, as many as were asked for, the likeliest first.
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class SampledToken:
    """A drawn token, and its log-probabilities where the request asks for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class RequestOutput:
    """Tokens of one request since the output before.

    Attributes:
        token_ids: the new tokens.
        num_cached_tokens: prompt tokens whose KV came from a prefix cache.
        finish_reason: set on the last output of a completion.
        index: which of the request's `n` completions the tokens belong to.
        logprobs: of each of the tokens; None where they were not asked for.
    """

    request_id: str
    token_ids: tuple[int, ...]
    num_cached_tokens: int
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenLogprobs, ...] | None = None
