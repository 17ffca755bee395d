"""The OpenAI API's requests, as far as they are implemented. Unknown fields are accepted and ignored;
known ones that are not implemented are refused by name."""

import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from workers.request import SamplingParams
from workers.sampling_params import MAX_COMPLETIONS, MAX_LISTED_TOKENS, MAX_LOGPROBS

SessionName = Annotated[str, Field(max_length=512)]
StopString = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float | None, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenName = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
# Fields of the API that would change the answer, with the values that do not.
NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tools": (None, []),
}


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(strict=True)
    include_usage: bool = False


class GenerationBody(BaseModel):
    """What both kinds of completion have in common. `top_k`, `min_p`, `repetition_penalty`, `min_tokens`,
    `stop_token_ids` and `ignore_eos` are vLLM's additions to the API."""

    model_config = ConfigDict(strict=True)
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    logit_bias: Annotated[dict[TokenName, Bias] | None, Field(max_length=MAX_LISTED_TOKENS)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    min_tokens: Annotated[int | None, Field(ge=0)] = None
    stop_token_ids: Annotated[list[TokenId] | None, Field(max_length=MAX_LISTED_TOKENS)] = None
    ignore_eos: bool = False
    n: Annotated[int | None, Field(ge=1, le=MAX_COMPLETIONS)] = None
    user: SessionName | None = None
    prompt_cache_key: SessionName | None = None

    @model_validator(mode="before")
    @classmethod
    def refuse_unimplemented(cls, values: Any) -> Any:
        """Say so where honouring a field would need what is not there yet."""
        if isinstance(values, dict):
            for name, neutral in NOT_IMPLEMENTED.items():
                if name in values and values[name] not in neutral:
                    message = "{param} is not implemented yet; leave it out"
                    raise PydanticCustomError("unsupported_parameter", message, {"param": name})
        return values

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def num_choices(self) -> int:
        """Completions to draw."""
        return self.n or 1

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report in the place of each; None for no log-probabilities at all."""
        return None

    @property
    def session(self) -> str | None:
        """What the client calls its conversation, as far as the body says."""
        return self.prompt_cache_key or self.user

    def sampling(self, max_tokens: int) -> SamplingParams:
        """How to draw; without a seed, one that no other request has. Raises RequestError where values do not fit each
        other."""
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
            logprobs=self.num_logprobs,
        )


class CompletionBody(GenerationBody):
    """POST /v1/completions. A prompt is text or token ids; lists of prompts are not implemented."""

    prompt: Annotated[str, Field(min_length=1)] | TokenIds
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None

    @property
    def num_logprobs(self) -> int | None:
        """As it is asked for."""
        return self.logprobs


class TextPart(BaseModel):
    """A part of a message's content. Only text is served."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    def as_dict(self) -> dict[str, str]:
        """As chat templates expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None

    @model_validator(mode="after")
    def check_top_logprobs(self) -> Self:
        """They come with `logprobs` only."""
        if self.top_logprobs is not None and not self.logprobs:
            message = "{param} needs logprobs to be true"
            raise PydanticCustomError("unsupported_parameter", message, {"param": "top_logprobs"})
        return self

    @property
    def num_logprobs(self) -> int | None:
        """None of the likeliest unless it is said how many."""
        return (self.top_logprobs or 0) if self.logprobs else None
