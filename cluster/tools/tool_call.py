"""One call of a tool, read from the JSON that a model wrote. JSON is all that is read: nothing is evaluated."""

import json
from collections.abc import Set
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class ToolCall:
    """A call. `arguments` is a JSON object as text."""

    name: str
    arguments: str


def read_call(text: str, offered: Set[str]) -> ToolCall | None:
    """The call that a text is, of one of the offered tools; None where it is none. Linear in the text's length."""
    try:
        return call_of(json.loads(text, parse_constant=refuse), offered)
    except (ValueError, RecursionError):
        return None


def call_of(value: object, offered: Set[str]) -> ToolCall | None:
    """The call that a JSON value is.

    Raises:
        ValueError: the arguments cannot be passed on as JSON: a number beyond all bounds, half a character.
        RecursionError: they are nested too deeply.
    """
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if not isinstance(name, str) or name not in offered or not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    text.encode()
    return ToolCall(name, text)


def refuse(constant: str) -> NoReturn:
    """Python reads NaN and Infinity, which no JSON has."""
    raise ValueError(f"{constant} is no JSON")
