"""The nouns at the engine's door: what a request asks for and what comes back. Free of torch and of Ray."""

import math
from dataclasses import dataclass
from enum import StrEnum


class RequestError(ValueError):
    """The request itself is at fault and can be mended by its sender; the message says how."""


class FinishReason(StrEnum):
    """Why a sequence ended. STOP: an end-of-sequence token. LENGTH: max_tokens. ABORT: the client went away."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn.

    Attributes:
        n: completions to draw, at least 1; the engine forks the prompt's KV for them.
        max_tokens: tokens to generate at most, at least 1.
        temperature: 0 takes the most likely token; 1 samples the model's own distribution.
        top_p: keep the smallest set of tokens whose probabilities sum to at least this, in (0, 1].
        top_k: keep only this many tokens; 0 keeps all.
        seed: with the position it decides every draw, so any worker that resumes the request draws the same.
        ignore_eos: go on after an end-of-sequence token (for benchmarks).

    Raises:
        RequestError: a value is out of its range.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    ignore_eos: bool = False
    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise RequestError(f"n is {self.n}; it must be at least 1")
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(f"temperature is {self.temperature}; it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.top_k < 0:
            raise RequestError(f"top_k is {self.top_k}; it must be 0 (off) or more")


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt to complete.

    Attributes:
        request_id: unique among the requests in flight.
        prompt_token_ids: at least one token.
        sampling: how to draw the completion.
        block_hashes: the chained hashes of the prompt's full blocks, computed once at the door for the routers.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    block_hashes: tuple[int, ...] = ()


@dataclass(frozen=True)
class RequestOutput:
    """Tokens of one request since the output before.

    Attributes:
        token_ids: the new tokens.
        num_cached_tokens: prompt tokens whose KV came from a prefix cache.
        finish_reason: set on the last output of a completion.
        index: which of the request's `n` completions the tokens belong to.
    """

    request_id: str
    token_ids: tuple[int, ...]
    num_cached_tokens: int
    finish_reason: FinishReason | None = None
    index: int = 0
