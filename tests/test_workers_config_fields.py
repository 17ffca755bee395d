"""Fields of `config.json`: whatever JSON can spell, a field is what was asked for or an error that names it."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.models.config_fields import MAX_SIZE, ConfigFields

NUMBERS = st.integers(-2, 10) | st.integers() | st.floats(0, 9) | st.sampled_from([math.nan, math.inf, 10**4000])
OTHERS = st.sampled_from([None, True, False, "8", "", [8], [], {}, {"size": 8}])


@given(NUMBERS | OTHERS)
def test_a_field_is_what_was_asked_for_or_an_error_that_names_it(value: object) -> None:
    config = ConfigFields({"size": value})
    for read, right in (
        (lambda: config.integer("size"), type(value) is int and 1 <= value <= MAX_SIZE),
        (lambda: config.number("size", least=0.5, most=8), type(value) in (int, float) and 0.5 <= value <= 8),  # type: ignore[operator]
        (lambda: config.flag("size"), value is None or type(value) is bool),
        (lambda: config.object("size"), value is None or type(value) is dict),
    ):
        assert_read(read, right)


def assert_read(read: Any, right: bool) -> None:
    if right:
        read()
    else:
        with pytest.raises(ValueError, match=r"^size is "):
            read()


@pytest.mark.parametrize("text", ["{}", '{"n": null}'])
def test_null_is_missing(text: str) -> None:
    config = ConfigFields(json.loads(text))
    assert "n" not in config
    assert config.integer("n", 3) == 3
    assert config.number("n", 2.5, least=0, most=9) == 2.5
    assert config.flag("n", True)
    assert config.object("n") == {}
    with pytest.raises(ValueError, match="n is missing"):
        config.integer("n")


def test_a_field_may_be_required_and_yet_be_null() -> None:
    ConfigFields({"n": None}).require("n")
    with pytest.raises(ValueError, match="n is missing"):
        ConfigFields({}).require("n")


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"^n is 'x{76}\.\.\.; it must be an integer from 1 to 4194304$"):
        ConfigFields({"n": "x" * 10_000}).integer("n")
