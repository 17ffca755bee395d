"""A JSON schema in words."""

import math
from typing import Any


def type_of(schema: dict[str, Any], named: dict[str, Any]) -> str:
    """A JSON schema in words. `named` are the schemas that it refers to by name."""
    if "$ref" in schema:
        return type_of(named[schema["$ref"].rpartition("/")[2]], named)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return ", or ".join(type_of(option, named) for option in options if option.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "boolean":
            return "`true` or `false`"
        case "integer":
            return f"whole number{number_range(schema)}"
        case "number":
            return f"number{number_range(schema)}"
        case "string":
            pattern = f" like `{schema['pattern']}`" if "pattern" in schema else ""
            return f"text{pattern}{size_range(schema, 'Length', 'characters')}"
        case "array":
            return f"list{size_range(schema, 'Items', 'items')}, each {type_of(schema['items'], named)}"
    return f"object{size_range(schema, 'Properties', 'keys')}"


def number_range(schema: dict[str, Any]) -> str:
    """Between which bounds."""
    bounds = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    if {"minimum", "maximum"} <= schema.keys():
        return f", {number(schema['minimum'])} to {number(schema['maximum'])}"
    said = [f"{word} {number(schema[key])}" for key, word in bounds if key in schema]
    return f", {', '.join(said)}" if said else ""


def number(value: float) -> str:
    """Powers of two are easier to recognise as such."""
    for offset in (0, 1):
        power = math.log2(abs(value) + offset) if abs(value) > 2**20 else 0.5
        if power.is_integer():
            return f"{'-' if value < 0 else ''}2^{power:.0f}{' - 1' if offset else ''}"
    return f"{value:g}"


def size_range(schema: dict[str, Any], what: str, unit: str) -> str:
    """How many there may be."""
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if most is None:
        return f", at least {least} {unit}" if least and least > 1 else ", not empty" if least else ""
    return f", {least or 0} to {most} {unit}"
