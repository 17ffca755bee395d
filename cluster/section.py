"""What every part of a configuration file is made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """The configuration cannot be used; the message names each key at fault."""


class Section(BaseModel):
    """Part of the configuration: fixed once read, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def explain(item: Any) -> str:
    """One line on one wrong key."""
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"  {key}: no such key"
    return f"  {key}: {item['msg']}, not {item['input']!r}"
