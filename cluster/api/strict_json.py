"""JSON as a request's body may be: one value, in UTF-8, of bounded depth and size, that has one meaning."""

import json
import math
import re
from typing import Any, NoReturn

from cluster.api.errors import ApiError

MAX_DEPTH = 200
MAX_VALUES = 400_000  # what can be parsed in a fraction of a second, of whatever it is made
MAX_DIGITS = 400  # of a whole number; a float ends at 309
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(raw: bytes) -> Any:
    """The value that a body spells.

    NaN, infinities and numbers that no float reaches come out as floats that are not finite: which field they stand in,
    whoever checks the fields can say.

    Raises:
        ApiError: it is no JSON (RFC 8259), no UTF-8, begins with a byte order mark, holds half a surrogate pair, names
            a key twice (of which parsers take the first or the last), or is too deep or too large.
    """
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise not_json(f"it holds more than {MAX_VALUES} values")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_int=whole_number)
        if SURROGATE_ESCAPE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise not_json(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise not_json("a lone surrogate is no character") from None
    except json.JSONDecodeError as error:
        raise not_json(str(error)) from None
    except RecursionError:
        raise not_json(f"it is nested deeper than {MAX_DEPTH} levels") from None
    check_depth(value)
    return value


def not_json(why: str) -> ApiError:
    """What is said of a body that cannot be read."""
    return ApiError(400, f"the body could not be parsed as JSON: {why}")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members. Raises ApiError where two have the same name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        refuse_duplicate(pairs)
    return members


def refuse_duplicate(pairs: list[tuple[str, Any]]) -> NoReturn:
    """Raise ApiError that names the first name given twice."""
    seen = set()
    for name, _ in pairs:
        if name in seen:
            shown = name[:64]
            raise ApiError(400, f"{shown!r} is given twice", param=shown, code="duplicate_parameter")
        seen.add(name)
    raise AssertionError("no name is given twice")


def whole_number(digits: str) -> int | float:
    """Python takes quadratic time for very long ones, and refuses them in the end."""
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


def check_depth(value: Any) -> None:
    """Raise ApiError where lists and objects lie in each other more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in children(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise not_json(f"it is nested deeper than {MAX_DEPTH} levels")


def children(value: Any) -> Any:
    """What an object or a list holds; anything else holds nothing."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
