"""What a client may ask for, and what it is told otherwise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.request import FinishReason, RequestError, SamplingParams

BAD_VALUES: list[tuple[str, float]] = [
    ("max_tokens", 0),
    ("max_tokens", -3),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("top_p", 0.0),
    ("top_p", -1.0),
    ("top_p", 1.5),
    ("top_p", math.nan),
    ("top_k", -1),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_the_message_names_the_field_and_its_value(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"{name} is {value}; it must be"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@given(
    max_tokens=st.integers(1, 10**9),
    temperature=st.floats(0, 1e300),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(0, 10**9),
    seed=st.integers(),
)
def test_everything_in_range_is_accepted(
    max_tokens: int, temperature: float, top_p: float, top_k: int, seed: int
) -> None:
    SamplingParams(max_tokens, temperature, top_p, top_k, seed)


def test_a_request_error_is_a_value_error() -> None:
    assert issubclass(RequestError, ValueError)


def test_finish_reasons_are_the_words_of_the_openai_api() -> None:
    assert [FinishReason.STOP, FinishReason.LENGTH] == ["stop", "length"]
