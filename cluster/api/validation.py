"""One validator for every protocol: what a request says, checked field by field, with errors that name the field."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cluster.api.errors import ApiError

Body = TypeVar("Body", bound=BaseModel)
# Fields whose keys are the client's own, or that are refused as a whole: an error names the field and no more.
UNDIVIDED = frozenset({"logit_bias", "metadata", "response_format"})
CODES = {
    "missing": "missing_required_parameter",
    "string_too_long": "string_above_max_length",
    "too_long": "array_above_max_length",
    "too_short": "empty_array",
    "model_attributes_type": "invalid_type",
}
BELOW = {"greater_than": "gt", "greater_than_equal": "ge"}
ABOVE = {"less_than": "lt", "less_than_equal": "le"}
OWN = ("unsupported_parameter", "unsupported_value", "invalid_value")  # errors that our own validators raise


def validated(body: type[Body], values: Any) -> Body:
    """The values of a request as a body of that kind. Nothing is converted or clamped.

    Raises:
        ApiError: 400, with the first field at fault as `param` and OpenAI's word for what is wrong as `code`.
    """
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object")
    try:
        return body.model_validate(values)
    except ValidationError as error:
        raise from_pydantic(error.errors(include_url=False)[0], values) from None


def from_pydantic(error: Any, values: dict[str, Any]) -> ApiError:
    """What pydantic has found, in the API's words."""
    kind, context = error["type"], error.get("ctx", {})
    path = ".".join(filter(None, (field_path(error["loc"], values), context.get("param"))))
    said = "this is required" if kind == "missing" else error["msg"]
    return ApiError(400, f"{path}: {said}", param=path, code=code_of(kind, context))


def code_of(kind: str, context: dict[str, Any]) -> str:
    """OpenAI's word for a kind of error of pydantic's."""
    if kind in CODES:
        return CODES[kind]
    if bound := BELOW.get(kind):
        return f"{number_kind(context[bound])}_below_min_value"
    if bound := ABOVE.get(kind):
        return f"{number_kind(context[bound])}_above_max_value"
    if kind.endswith("_type"):
        return "invalid_type"
    return kind if kind in OWN else "invalid_value"


def number_kind(bound: float) -> str:
    """A field's bounds are of the field's own type."""
    return "integer" if isinstance(bound, int) else "decimal"


def field_path(parts: Sequence[str | int], values: Any) -> str:
    """`messages[0].role`, without the names of union members that pydantic puts between."""
    path = ""
    for part in parts:
        if isinstance(values, dict) and isinstance(part, str):
            path += f".{part}" if path else part
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            path += f"[{part}]"
            values = values[part]
        if path in UNDIVIDED:
            break
    return path
