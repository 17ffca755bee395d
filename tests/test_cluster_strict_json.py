"""cluster/api/strict_json.py: what a body may spell."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api.errors import ApiError
from cluster.api.strict_json import MAX_DEPTH, MAX_VALUES, parse_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_json_comes_out_as_it_was(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1,]", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b'"\x01"', "control character"),
        (b"-NaN", "Expecting value"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'["\\ud800"]', "lone surrogate"),
        (b'{"\\uDFFF x": 1}', "lone surrogate"),
        (b"[" * 100_000, "nested"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested"),
        (b"[" + b"1," * MAX_VALUES + b"1]", "values"),
    ],
)
def test_what_is_not_one_value_with_one_meaning_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        parse_json(raw)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, None, None)


@pytest.mark.parametrize("raw", [b'{"a": 1, "b": 2, "a": 1}', b'[{"b": {"a": 1, "\\u0061": 1}}]'])
def test_a_name_given_twice_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(ApiError, match="twice") as refused:
        parse_json(raw)
    assert (refused.value.param, refused.value.code) == ("a", "duplicate_parameter")


def test_the_deepest_and_what_only_looks_like_half_a_pair() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(rb'"\ud83d\ude42 \\ud800"') == "🙂 \\ud800"


@pytest.mark.parametrize("raw", [b"NaN", b"-Infinity", b"1e999", b"1" * 5000])
def test_numbers_that_no_float_reaches_are_left_to_the_fields(raw: bytes) -> None:
    assert not math.isfinite(parse_json(raw))
