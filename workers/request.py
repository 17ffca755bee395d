"""The nouns at the engine's door: what a request asks for and what comes back. Free of torch and of Ray."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from workers.sampling_params import SamplingParams
from workers.validation import RequestError

__all__ = [
    "Beat",
    "FinishReason",
    "GenerationRequest",
    "RequestError",
    "RequestOutput",
    "SampledToken",
    "SamplingParams",
    "TokenLogprobs",
    "WorkerTimes",
]


ATTEMPT_MARK = "#"


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
        output_token_ids: what earlier attempts at this request have generated, fewer than `max_tokens`. They count as
            output in every respect, and the completion goes on after them.
        timeout_s: the worker drops the request after so long; None for never.
        lost: ids of earlier attempts. Whoever lost them should not be asked again, if there is anybody else.
        cache_salt: its KV is shared with requests that have the same, and no others.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    block_hashes: tuple[int, ...] = ()
    session: str | None = None
    output_token_ids: tuple[int, ...] = ()
    timeout_s: float | None = None
    lost: tuple[str, ...] = ()
    cache_salt: str = ""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The prompt and what has been generated: what a worker has to compute before the next token."""
        return self.prompt_token_ids + self.output_token_ids

    def resumed(self, output_token_ids: Sequence[int], attempt: int, timeout_s: float | None) -> "GenerationRequest":
        """The next attempt, which goes on after these tokens. Its id is its own: nothing that is still on its way from
        or to an earlier attempt can be taken for this one's."""
        first_id = self.request_id.partition(ATTEMPT_MARK)[0]
        return replace(
            self,
            request_id=f"{first_id}{ATTEMPT_MARK}{attempt}" if attempt else first_id,
            output_token_ids=tuple(output_token_ids),
            timeout_s=timeout_s,
            lost=(*self.lost, self.request_id) if attempt else (),
        )


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
class WorkerTimes:
    """Where a worker's time went before its first output of a request, in the order in which it went. Durations, so
    that whoever reads them need not share the worker's clock.

    Attributes:
        queue_s: from the engine's having the request to its blocks.
        prefill_s: from there to the first token; 0 where that was drawn elsewhere.
        transfer_s: before all that, fetching KV of another worker; None where none was to be fetched.
    """

    queue_s: float
    prefill_s: float
    transfer_s: float | None = None


@dataclass(frozen=True)
class RequestOutput:
    """Tokens of one request since the output before.

    Attributes:
        token_ids: the new tokens.
        num_cached_tokens: prompt tokens whose KV came from a prefix cache.
        finish_reason: set on the last output of a completion.
        index: which of the request's `n` completions the tokens belong to.
        logprobs: of each of the tokens; None where they were not asked for.
        times: how the request came to its first output here; only that has them.
    """

    request_id: str
    token_ids: tuple[int, ...]
    num_cached_tokens: int
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenLogprobs, ...] | None = None
    times: WorkerTimes | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Beat:
    """A sign of life in a stream of outputs: the worker has the request, and its engine makes progress.

    Attributes:
        endpoint: `host:port` where the worker can be told to abort it.
        worker: what the worker is called.
    """

    endpoint: str
    worker: str = ""
