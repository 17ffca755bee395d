"""The messages of a conversation, as requests bring them and as chat templates expect them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError


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


Parts = Annotated[list[TextPart], Field(min_length=1)]
Content = Annotated[Annotated[str, Tag("one")] | Annotated[Parts, Tag("several")], Discriminator(list_or_one)]


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content

    @property
    def text(self) -> str:
        """The content, its parts in a row."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def as_dict(self) -> dict[str, str]:
        """As chat templates expect it."""
        return {"role": self.role, "content": self.text}
