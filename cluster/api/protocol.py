"""The OpenAI API's requests. Unknown fields are accepted, ignored and counted up in `ignored`; known ones that are not
honoured are refused by name (`cluster/api/unsupported.py`)."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cluster.api.messages import ChatMessage, list_or_one
from cluster.api.unsupported import (
    CHAT_ONLY,
    COMPLETION_ONLY,
    EVERYWHERE,
    ResponseFormat,
    Unsupported,
    refuse_unsupported,
)
from cluster.tools.bodies import ToolBody, ToolChoice, Tools
from workers.request import SamplingParams
from workers.sampling_params import MAX_COMPLETIONS, MAX_LISTED_TOKENS, MAX_LOGPROBS
from workers.validation import MAX_INT

MAX_MESSAGES = 2048
MAX_STOP_CHARACTERS = 1024
MAX_BEST_OF = 20


def prompt_kind(value: Any) -> str:
    """Which of four types a prompt is meant to have."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else None
    return "texts" if isinstance(first, str) else "token lists" if isinstance(first, list) else "tokens"


def few_keys(value: Any) -> Any:
    """Before each is looked at: pydantic counts last, and keeps an error for every key that is wrong."""
    if isinstance(value, dict) and len(value) > MAX_LISTED_TOKENS:
        raise PydanticCustomError("too_long", f"an object may have at most {MAX_LISTED_TOKENS} keys here")
    return value


SessionName = Annotated[str, Field(max_length=512)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopStrings = Annotated[list[StopString], Field(max_length=4)]
Stop = Annotated[Annotated[StopString, Tag("one")] | Annotated[StopStrings, Tag("several")], Discriminator(list_or_one)]
Penalty = Annotated[float | None, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenName = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Count = Annotated[int | None, Field(ge=1, le=MAX_INT)]
Text = Annotated[str, Field(min_length=1)]
Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Annotated[list[Text], Field(max_length=MAX_COMPLETIONS)], Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[Annotated[list[TokenIds], Field(max_length=MAX_COMPLETIONS)], Tag("token lists")],
    Discriminator(prompt_kind),
]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


def refuse_padding(wanted: bool) -> bool:
    """Chunks are as long as their text: whoever sees the encrypted stream sees how long that is."""
    if wanted:
        raise PydanticCustomError("unsupported_parameter", "chunks are not padded here; leave it out")
    return wanted


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(strict=True)
    include_usage: bool = False
    include_obfuscation: Annotated[bool, AfterValidator(refuse_padding)] = False


class GenerationBody(BaseModel):
    """What both kinds of completion have in common. `top_k`, `min_p`, `repetition_penalty`, `min_tokens`,
    `stop_token_ids` and `ignore_eos` are vLLM's additions to the API; `metadata` and `safety_identifier` are checked
    and have no effect.

    Attributes:
        ignored: names of fields that this API does not know.
    """

    model_config = ConfigDict(strict=True)
    unsupported: ClassVar[Unsupported] = EVERYWHERE
    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    top_k: Annotated[int | None, Field(ge=-1, le=MAX_INT)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: Stop | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    logit_bias: Annotated[
        dict[TokenName, Bias] | None, Field(max_length=MAX_LISTED_TOKENS), BeforeValidator(few_keys)
    ] = None
    min_p: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    min_tokens: Annotated[int | None, Field(ge=0, le=MAX_INT)] = None
    stop_token_ids: Annotated[list[TokenId] | None, Field(max_length=MAX_LISTED_TOKENS)] = None
    ignore_eos: bool = False
    n: Annotated[int | None, Field(ge=1, le=MAX_COMPLETIONS)] = None
    max_tokens: Count = None
    user: SessionName | None = None
    prompt_cache_key: SessionName | None = None
    safety_identifier: SessionName | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue] | None, Field(max_length=16), BeforeValidator(few_keys)] = None
    cache_salt: Annotated[str | None, Field(pattern=r"^[\x21-\x7e]{1,256}$")] = None
    _ignored: tuple[str, ...] = ()

    @model_validator(mode="wrap")
    @classmethod
    def refuse_what_is_not_honoured(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """After all else has been found right; and remember what is not known at all."""
        body = handler(values)
        if isinstance(values, dict):
            refuse_unsupported(values, cls.unsupported)
            known = cls.model_fields.keys() | cls.unsupported.keys()
            body._ignored = tuple(name for name in values if name not in known)
        return body

    @model_validator(mode="after")
    def check_stream_options(self) -> Self:
        """They come with `stream` only."""
        if self.stream_options is not None and not self.stream:
            raise field_error("stream_options", "needs stream to be true")
        return self

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of fields that this API does not know."""
        return self._ignored

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def num_choices(self) -> int:
        """Completions to return for a prompt."""
        return self.n or 1

    @property
    def num_prompts(self) -> int:
        """Prompts to complete."""
        return 1

    @property
    def num_drawn(self) -> int:
        """Completions to draw for a prompt, of which the likeliest are returned."""
        return self.num_choices

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report in the place of each; None for no log-probabilities at all."""
        return None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def session(self) -> str | None:
        """What the client calls its conversation, as far as the body says."""
        return self.prompt_cache_key or self.user

    def sampling(self, max_tokens: int) -> SamplingParams:
        """How to draw; without a seed, one that no other request has. Raises RequestError where values do not fit each
        other."""
        chosen = self.num_drawn > self.num_choices  # by their log-probabilities
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            seed=uuid.uuid4().int >> 64 if self.seed is None else self.seed,
            ignore_eos=self.ignore_eos,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            stop_token_ids=self.stop_token_ids or (),
            min_tokens=self.min_tokens or 0,
            logprobs=0 if chosen and self.num_logprobs is None else self.num_logprobs,
        )


class CompletionBody(GenerationBody):
    """POST /v1/completions. A prompt is text or token ids, or a list of either."""

    unsupported: ClassVar[Unsupported] = EVERYWHERE | COMPLETION_ONLY
    prompt: Prompt
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
    echo: bool | None = None
    best_of: Annotated[int | None, Field(ge=1, le=MAX_BEST_OF)] = None

    @model_validator(mode="after")
    def check_choices(self) -> Self:
        """What is drawn, and what is returned of it."""
        if self.best_of is not None and self.best_of < self.num_choices:
            raise field_error("best_of", f"it must be at least n, which is {self.n}")
        if self.stream and self.num_drawn > self.num_choices:
            raise field_error("best_of", "it cannot be streamed: which are the best is known at the end")
        if self.echo and self.logprobs is not None:
            raise field_error("echo", "it cannot be had with logprobs: those of the prompt are not computed")
        if len(self.prompts) * self.num_drawn > MAX_COMPLETIONS:
            message = f"{len(self.prompts)} prompts and {self.num_drawn} completions of each are more than"
            raise field_error("prompt", f"{message} {MAX_COMPLETIONS}; send fewer at a time")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One or several."""
        several = isinstance(self.prompt, list) and isinstance(self.prompt[0], str | list)
        return cast(list[str | list[int]], self.prompt if several else [self.prompt])

    @property
    def num_prompts(self) -> int:
        """Prompts to complete."""
        return len(self.prompts)

    @property
    def num_drawn(self) -> int:
        """Completions to draw for a prompt, of which the likeliest are returned."""
        return self.best_of or self.num_choices

    @property
    def num_logprobs(self) -> int | None:
        """As it is asked for."""
        return self.logprobs


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    unsupported: ClassVar[Unsupported] = EVERYWHERE | CHAT_ONLY
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def check_pairs(self) -> Self:
        """Fields that need or contradict another."""
        if self.top_logprobs is not None and not self.logprobs:
            raise field_error("top_logprobs", "needs logprobs to be true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise field_error("max_tokens", "differs from max_completion_tokens; send one of them")
        return self

    @property
    def num_logprobs(self) -> int | None:
        """None of the likeliest unless it is said how many."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offered_tools(self) -> list[ToolBody]:
        """Those that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []


def field_error(param: str, message: str) -> PydanticCustomError:
    """What a validator of several fields raises about one of them."""
    return PydanticCustomError("invalid_value", "{message}", {"message": message, "param": param})
