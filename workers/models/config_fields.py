"""Typed and checked access to the fields of a `config.json`."""

from collections.abc import Mapping
from typing import Any

MAX_SIZE = 2**22  # of any dimension: four million, beyond every model that a machine could hold


class ConfigFields:
    """The fields of one JSON object. A field that is null counts as missing, as it does for Transformers.

    Every method raises ValueError for a field that is missing, of another type or out of range, and names it.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._names = frozenset(fields)
        self._fields = {key: value for key, value in fields.items() if value is not None}

    def require(self, key: str) -> None:
        """Insist that a field is there, if only as null."""
        if key not in self._names:
            raise ValueError(f"{key} is missing")

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def any(self, key: str) -> Any:
        """A field as it is, None where it is missing."""
        return self._fields.get(key)

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer from 1 to MAX_SIZE, required where there is no default."""
        value = self._required(key, default)
        if type(value) is not int or not 1 <= value <= MAX_SIZE:
            raise ValueError(f"{key} is {shown(value)}; it must be an integer from 1 to {MAX_SIZE}")
        return value

    def number(self, key: str, default: float | None = None, *, least: float, most: float) -> float:
        """A number from `least` to `most`, required where there is no default."""
        value = self._required(key, default)
        if type(value) not in (int, float) or not least <= value <= most:
            raise ValueError(f"{key} is {shown(value)}; it must be a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean."""
        value = self._fields.get(key, default)
        if type(value) is not bool:
            raise ValueError(f"{key} is {shown(value)}; it must be true or false")
        return value

    def object(self, key: str) -> Mapping[str, Any]:
        """An object, empty where it is missing."""
        value = self._fields.get(key, {})
        if not isinstance(value, dict):
            raise ValueError(f"{key} is {shown(value)}; it must be an object")
        return value

    def _required(self, key: str, default: float | None) -> Any:
        if default is None and key not in self._fields:
            raise ValueError(f"{key} is missing")
        return self._fields.get(key, default)


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
