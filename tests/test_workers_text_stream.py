"""Text ends before a stop string, wherever tokens happen to cut it, and nothing is given out too early."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.text_stream import TextStream
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

TOKENIZER = Tokenizer(TINY_MODEL)


def stream(text: str, stop: list[str], size: int = 1) -> tuple[list[str], TextStream]:
    """What each push of `size` tokens of `text` gave."""
    tokens = TOKENIZER.encode(text)[1:]
    texts = TextStream(TOKENIZER, stop)
    ends = range(size, len(tokens) + size, size)
    return [texts.push(tokens[end - size : end], last=end >= len(tokens)) for end in ends], texts


@pytest.mark.parametrize("size", [1, 3, 100])
def test_text_ends_before_the_first_stop_string(size: int) -> None:
    parts, texts = stream("def f():\n    return 1\n\ndef g():\n", ["\n\n", "return 2"], size)
    assert "".join(parts) == "def f():\n    return 1"
    assert texts.stopped


def test_what_only_begins_a_stop_string_comes_out_in_the_end() -> None:
    parts, texts = stream("a sto", ["stop"])
    assert "".join(parts) == "a sto"
    assert not texts.stopped


def test_what_might_begin_a_stop_string_is_held_back() -> None:
    texts = TextStream(TOKENIZER, ["returns"])
    assert texts.push(TOKENIZER.encode("x = return")[1:], last=False) == "x = "
    assert texts.push(TOKENIZER.encode(" 1")[1:], last=False) == "return 1"


def test_nothing_comes_after_a_stop() -> None:
    texts = TextStream(TOKENIZER, ["="])
    assert texts.push(TOKENIZER.encode("x = 1")[1:], last=False) == "x "
    assert texts.push(TOKENIZER.encode(" y")[1:], last=True) == ""


@settings(deadline=None, max_examples=200)
@given(
    st.text("ab\n é🙂", max_size=30), st.lists(st.text("ab\n é", min_size=1, max_size=4), max_size=3), st.integers(1, 4)
)
def test_any_text_and_any_stop_strings(text: str, stop: list[str], size: int) -> None:
    """What is given out is the text up to a stop string and holds none; without one it is the whole text."""
    parts, texts = stream(text, stop, size)
    given_out = "".join(parts)
    assert not any(found in given_out for found in stop)
    assert text.startswith(given_out)
    rest = text[len(given_out) :]
    assert texts.stopped == any(found in text for found in stop)
    assert rest.startswith(tuple(stop)) if texts.stopped else rest == ""


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(("min_tokens", "expected"), [(0, ""), (1, "a = 1\n"), (4, "a = 1\n"), (50, "a = 1\na = 🙂a")])
def test_the_text_of_the_first_tokens_is_not_searched(size: int, min_tokens: int, expected: str) -> None:
    """The same wherever the stream is cut; a character of several tokens on the border comes out whole."""
    tokens = TOKENIZER.encode("a = 1\na = 🙂a")[1:]
    texts = TextStream(TOKENIZER, ["a ="], min_tokens)
    ends = range(size, len(tokens) + size, size)
    text = "".join(texts.push(tokens[end - size : end], last=end >= len(tokens)) for end in ends)
    assert text == expected
    assert texts.stopped == (min_tokens < 50)


@pytest.mark.parametrize("min_tokens", range(12))
def test_no_text_is_lost_between_what_is_searched_and_what_is_not(min_tokens: int) -> None:
    text = "é🙂 naïve 🙂🙂 x"
    tokens = TOKENIZER.encode(text)[1:]
    assert len(tokens) > 11
    texts = TextStream(TOKENIZER, ["never"], min_tokens)
    assert "".join(texts.push([token], last=token is tokens[-1]) for token in tokens) == text
