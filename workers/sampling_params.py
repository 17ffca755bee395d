"""How the tokens of a completion are drawn and when it ends. Free of torch and of Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.validation import RequestError, check_int, check_number

MAX_COMPLETIONS = 128
MAX_LISTED_TOKENS = 1024
MAX_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. The names, meanings and limits are those of vLLM and of the OpenAI API.

    Logits are changed in this order: logit_bias, repetition, frequency and presence penalties, min_tokens, temperature,
    min_p, top_k, top_p.

    Attributes:
        max_tokens: tokens to generate at most, at least 1.
        temperature: 0 takes the most likely token; 1 samples the model's own distribution.
        top_p: keep the smallest set of tokens whose probabilities sum to at least this, in (0, 1].
        top_k: keep only this many tokens; 0 or -1 keeps all.
        seed: with the position it decides every draw, so any worker that resumes the request draws the same. Where it
            is None, `LLM` and the API choose one for each request; the engine by itself takes 0.
        ignore_eos: go on after an end-of-sequence token (for benchmarks).
        n: completions to draw, 1 to 128; the engine forks the prompt's KV for them.
        min_p: keep only tokens at least this fraction as likely as the likeliest, in [0, 1] (Nguyen et al. 2024).
        repetition_penalty: divide positive logits of tokens of the prompt and the completion by this, and multiply
            negative ones; above 0, 1 changes nothing (Keskar et al. 2019).
        presence_penalty: subtract this from the logits of the completion's tokens, in [-2, 2].
        frequency_penalty: subtract this as many times as a token occurs in the completion, in [-2, 2].
        logit_bias: added to the logits of single tokens, each in [-100, 100], 1,024 at most; a mapping, kept as sorted
            pairs.
        stop_token_ids: tokens that end the completion besides the model's end-of-sequence tokens, 1,024 at most.
        stop: strings that end the completion; looked for where tokens become text, so the engine ignores them.
        min_tokens: tokens before which nothing but max_tokens ends the completion; tokens that would are not drawn.
        logprobs: report each token's log-probability and this many of the likeliest, 0 to 20, under the model's own
            distribution, which none of the above has changed; None reports nothing.

    Raises:
        RequestError: a value is of the wrong type or out of its range.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    ignore_eos: bool = False
    n: int = 1
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    stop_token_ids: Sequence[int] = ()
    stop: Sequence[str] = ()
    min_tokens: int = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        object.__setattr__(self, "stop", checked_stop(self.stop))
        object.__setattr__(self, "stop_token_ids", checked_token_ids(self.stop_token_ids))
        object.__setattr__(self, "logit_bias", checked_bias(self.logit_bias))

    @property
    def penalises(self) -> bool:
        """Whether the logits depend on the tokens before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def check_vocabulary(self, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        """Raise RequestError where tokens are named that a model lacks, or where none is left that may be drawn."""
        for name, named in (("logit_bias", dict(self.logit_bias)), ("stop_token_ids", self.stop_token_ids)):
            unknown = sorted(token for token in named if token >= vocab_size)
            if unknown:
                raise RequestError(f"{name} names tokens {unknown[:5]}; this model's are 0 to {vocab_size - 1}")
        if self.min_tokens and len(eos_token_ids.union(self.stop_token_ids)) >= vocab_size:
            raise RequestError("min_tokens needs a token that does not stop; stop_token_ids leaves none")

    def _check_numbers(self) -> None:
        check_int("n", self.n, 1, MAX_COMPLETIONS)
        check_int("max_tokens", self.max_tokens, 1)
        check_int("min_tokens", self.min_tokens, 0, self.max_tokens)
        check_int("top_k", self.top_k, -1)
        check_number("temperature", self.temperature, 0)
        check_number("top_p", self.top_p, 0, 1, above=True)
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0, above=True)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.logprobs is not None:
            check_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.seed is not None and type(self.seed) is not int:
            raise RequestError(f"seed is {self.seed!r}; it must be a whole number or None")
        if type(self.ignore_eos) is not bool:
            raise RequestError(f"ignore_eos is {self.ignore_eos!r}; it must be True or False")


def checked_stop(stop: object) -> tuple[str, ...]:
    """Stop strings, one or several, as a tuple. Raises RequestError for an empty one and for other types."""
    strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple) or not all(isinstance(string, str) and string for string in strings):
        raise RequestError(f"stop is {stop!r}; it must be a string or a list of strings, none of them empty")
    return tuple(strings)


def checked_token_ids(token_ids: object) -> tuple[int, ...]:
    """`stop_token_ids` sorted. Raises RequestError where they are no list of token ids."""
    if not isinstance(token_ids, list | tuple | set | frozenset) or len(token_ids) > MAX_LISTED_TOKENS:
        raise RequestError(f"stop_token_ids must be a list of at most {MAX_LISTED_TOKENS} token ids")
    for token in token_ids:
        check_int("a token of stop_token_ids", token, 0)
    return tuple(sorted(set(token_ids)))


def checked_bias(bias: object) -> tuple[tuple[int, float], ...]:
    """`logit_bias` as pairs sorted by token. Raises RequestError where it is no mapping of token ids to biases."""
    try:
        if not isinstance(bias, Mapping | tuple):
            raise TypeError
        pairs: dict[Any, Any] = dict(bias)
    except (TypeError, ValueError):
        raise RequestError(f"logit_bias is {bias!r}; it must map token ids to biases") from None
    if len(pairs) > MAX_LISTED_TOKENS:
        raise RequestError(f"logit_bias names {len(pairs)} tokens; it may name at most {MAX_LISTED_TOKENS}")
    for token, value in pairs.items():
        check_int("a token of logit_bias", token, 0)
        check_number(f"logit_bias of token {token}", value, -100, 100)
    return tuple(sorted(pairs.items()))
