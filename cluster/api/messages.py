"""The messages of a conversation, as requests bring them and as chat templates expect them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from cluster.tools.bodies import CallBody, CallId

MAX_NAME = 512
MAX_CALLS = 128
MAX_PARTS = 2048


def list_or_one(value: Any) -> str:
    """Which of two types a field is meant to have, so that an error speaks of one of them."""
    return "several" if isinstance(value, list) else "one"


class TextPart(BaseModel):
    """A part of a message's content. Only text is served."""

    model_config = ConfigDict(strict=True)
    type: str
    text: str

    @model_validator(mode="before")
    @classmethod
    def check_type(cls, values: Any) -> Any:
        """Before its text, which parts of other types have none of."""
        kind = values.get("type", "text") if isinstance(values, dict) else "text"
        if isinstance(kind, str) and kind != "text":
            message = "content of other types than text is not supported"
            raise PydanticCustomError("unsupported_value", message, {"param": "type"})
        return values


Parts = Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
Content = Annotated[Annotated[str, Tag("one")] | Annotated[Parts, Tag("several")], Discriminator(list_or_one)]


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    tool_calls: Annotated[list[CallBody], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: CallId | None = None

    @model_validator(mode="after")
    def check_role(self) -> Self:
        """The assistant may call tools instead of saying something; what a tool gave says to which call."""
        if self.tool_calls and self.role != "assistant":
            message = "only messages of the assistant have them"
            raise PydanticCustomError("invalid_value", message, {"param": "tool_calls"})
        if self.content is None and not self.tool_calls:
            kind = "string_type" if "content" in self.model_fields_set else "missing"
            raise PydanticCustomError(kind, "must be text where no tool is called", {"param": "content"})
        if self.tool_call_id is None and self.role == "tool":
            raise PydanticCustomError("missing", "must name the call", {"param": "tool_call_id"})
        return self

    @property
    def text(self) -> str:
        """The content, its parts in a row; empty where there is none."""
        return "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""

    def as_dict(self) -> dict[str, Any]:
        """As chat templates expect it."""
        named = {} if self.name is None else {"name": self.name}
        calls = {"tool_calls": [call.as_dict() for call in self.tool_calls]} if self.tool_calls else {}
        answers = {} if self.tool_call_id is None else {"tool_call_id": self.tool_call_id}
        return {"role": self.role, "content": self.text} | named | calls | answers


def conversation(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them. What a tool gave bears the tool's name, which some want to know."""
    names = {call.id: call.function.name for message in messages for call in message.tool_calls or ()}
    dicts = [message.as_dict() for message in messages]
    return [{"name": names[one["tool_call_id"]]} | one if one.get("tool_call_id") in names else one for one in dicts]
