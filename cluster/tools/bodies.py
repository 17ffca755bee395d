"""The parts of a chat request that are about tools, as the OpenAI API has them."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from cluster.tools.tool_call import refuse

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]
MAX_TOOLS = 128  # of the API
NOT_GUARANTEED = "that a model calls a tool, or keeps to a schema, cannot be guaranteed here; "


def refuse_strict(strict: bool | None) -> bool | None:
    """Arguments are as the model writes them."""
    if strict:
        message = NOT_GUARANTEED + "leave it out, or false, and check the arguments"
        raise PydanticCustomError("unsupported_parameter", message)
    return strict


def refuse_forced(choice: Any) -> Any:
    """The API has more choices than those that a model makes by itself."""
    if choice == "required" or isinstance(choice, dict):
        message = NOT_GUARANTEED + "use 'auto', and ask for the call in the prompt"
        raise PydanticCustomError("unsupported_parameter", message)
    return choice


def arguments_object(text: str) -> str:
    """Chat templates take arguments apart, so they must be an object."""
    try:
        arguments = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise PydanticCustomError("invalid_value", "must be a JSON object, as text")
    return text


ToolChoice = Annotated[Literal["none", "auto"] | None, BeforeValidator(refuse_forced)]
Arguments = Annotated[str, AfterValidator(arguments_object)]


class FunctionBody(BaseModel):
    """A function that the model may call; `parameters` is a JSON schema."""

    model_config = ConfigDict(strict=True)
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, AfterValidator(refuse_strict)] = None

    def as_dict(self) -> dict[str, Any]:
        """As chat templates expect it, always in the same order: the same tools are the same tokens, whoever sends
        them."""
        said = {} if self.description is None else {"description": self.description}
        parameters = {"type": "object", "properties": {}} if self.parameters is None else self.parameters
        return {"name": self.name} | said | {"parameters": parameters}


class ToolBody(BaseModel):
    """A tool. Functions are the only ones."""

    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    function: FunctionBody

    def as_dict(self) -> dict[str, Any]:
        """As chat templates expect it."""
        return {"type": self.type, "function": self.function.as_dict()}


def different_names(tools: list[ToolBody]) -> list[ToolBody]:
    """A call names its tool by nothing else."""
    if len({tool.function.name for tool in tools}) < len(tools):
        raise PydanticCustomError("invalid_value", "each function needs a name of its own")
    return tools


Tools = Annotated[list[ToolBody], Field(max_length=MAX_TOOLS), AfterValidator(different_names)]


class CalledFunction(BaseModel):
    """What was called."""

    model_config = ConfigDict(strict=True)
    name: FunctionName
    arguments: Arguments

    def as_dict(self) -> dict[str, Any]:
        """As chat templates expect it: the arguments as an object."""
        return {"name": self.name, "arguments": json.loads(self.arguments)}


class CallBody(BaseModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(strict=True)
    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction

    def as_dict(self) -> dict[str, Any]:
        """As chat templates expect it."""
        return {"id": self.id, "type": self.type, "function": self.function.as_dict()}
