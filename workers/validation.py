"""What is wrong with a request, and checks of single values that say it. Free of torch and of Ray."""

import math

MAX_INT = 2**31 - 1


class RequestError(ValueError):
    """The request itself is at fault and can be mended by its sender; the message says how."""


def check_int(name: str, value: object, at_least: int, at_most: int = MAX_INT) -> None:
    """Raise RequestError unless `value` is an int, not a bool, within both bounds."""
    if type(value) is not int or not at_least <= value <= at_most:
        raise RequestError(f"{name} is {value!r}; it must be a whole number from {at_least} to {at_most}")


def check_number(name: str, value: object, at_least: float, at_most: float = math.inf, *, above: bool = False) -> None:
    """Raise RequestError unless `value` is a finite int or float, not a bool, within both bounds.

    With `above` it must not equal the lower bound.
    """
    if is_finite_number(value) and at_least <= value <= at_most and not (above and value == at_least):  # type: ignore[operator]
        return
    lower = f"above {at_least:g}" if above else f"at least {at_least:g}"
    upper = "" if at_most == math.inf else f" and at most {at_most:g}"
    raise RequestError(f"{name} is {value!r}; it must be a finite number {lower}{upper}")


def is_finite_number(value: object) -> bool:
    """Whether a value is an int or a float, no bool, and can be computed with as a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int beyond the range of floats
        return False
