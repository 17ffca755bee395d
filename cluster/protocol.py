"""The OpenAI API's requests, as far as they are implemented. Unknown fields are accepted and ignored;
known ones that are not implemented are refused by name."""

import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from workers.request import SamplingParams

SessionName = Annotated[str, Field(max_length=512)]
StopString = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
# Fields of the API that would change the answer, with the values that do not.
NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tools": (None, []),
    "top_logprobs": (None,),
}


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(strict=True)
    include_usage: bool = False


class GenerationBody(BaseModel):
    """What both kinds of completion have in common."""

    model_config = ConfigDict(strict=True)
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    ignore_eos: bool = False
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
    def session(self) -> str | None:
        """What the client calls its conversation, as far as the body says."""
        return self.prompt_cache_key or self.user

    def sampling(self, max_tokens: int) -> SamplingParams:
        """How to draw; without a seed, one that no other request has."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            seed=uuid.uuid4().int >> 64 if self.seed is None else self.seed,
            ignore_eos=self.ignore_eos,
        )


class CompletionBody(GenerationBody):
    """POST /v1/completions. A prompt is text or token ids; lists of prompts are not implemented."""

    prompt: Annotated[str, Field(min_length=1)] | TokenIds
    max_tokens: Annotated[int | None, Field(ge=1)] = None


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
