"""The requests of /tokenize and /detokenize, which vLLM has added to the API."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from cluster.api.messages import ChatMessage
from cluster.api.protocol import MAX_MESSAGES, TokenId


class TokenizeBody(BaseModel):
    """POST /tokenize: a text or a conversation, whose last message the assistant is to answer."""

    model_config = ConfigDict(strict=True)
    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage] | None, Field(min_length=1, max_length=MAX_MESSAGES)] = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def check_one(self) -> Self:
        """One of the two."""
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("invalid_value", "send either this or messages", {"param": "prompt"})
        return self


class DetokenizeBody(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(strict=True)
    model: str | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
