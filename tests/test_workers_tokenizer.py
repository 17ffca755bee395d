"""Text to tokens and back on the bundled tokenizer; streams that never split a character."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.models.spec import ModelError
from workers.request import RequestError
from workers.tokenizer import Detokenizer, Tokenizer
from workers.weights.model_dir import TINY_MODEL

BOS, EOS = "<|bos|>", "<|eos|>"
TEXTS = [
    "def f():\n    return 1\n",
    "naïve café",
    "日本語のテキスト",
    "👩\u200d👩\u200d👧 family 🇩🇪",
    "a\u0301",
    "\x00\t\r\n",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


@pytest.fixture(scope="module")
def specials(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of the begin-of-text and the end-of-text token."""
    bos, eos = tokenizer._tokenizer.convert_tokens_to_ids([BOS, EOS])
    return bos, eos


@given(text=st.text())
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert all(0 <= token < tokenizer.vocab_size for token in tokens)


def test_a_prompt_begins_with_the_begin_of_text_token(tokenizer: Tokenizer, specials: tuple[int, int]) -> None:
    assert tokenizer.encode("x = 1")[0] == specials[0]
    assert tokenizer.encode("") == [specials[0]]


def test_text_that_spells_a_special_token_is_not_one(tokenizer: Tokenizer, specials: tuple[int, int]) -> None:
    text = f"a{EOS}b{BOS}"
    tokens = tokenizer.encode(text)
    assert not set(specials) & set(tokens[1:])
    assert tokenizer.decode(tokens) == text


def test_special_tokens_have_no_text(tokenizer: Tokenizer, specials: tuple[int, int]) -> None:
    assert tokenizer.decode([*specials, *tokenizer.encode("ab")[1:], specials[1]]) == "ab"


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff ok"])
def test_a_lone_surrogate_is_the_sender_s_fault(tokenizer: Tokenizer, text: str) -> None:
    """JSON can spell one ("\\ud800"), UTF-8 cannot."""
    with pytest.raises(RequestError):
        tokenizer.encode(text)


def streamed(tokenizer: Tokenizer, tokens: list[int], size: int) -> tuple[list[str], str]:
    """What each push of `size` tokens gave, and what the flush did."""
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.push(tokens[i : i + size]) for i in range(0, len(tokens), size)], detokenizer.flush()


@given(text=st.text(), size=st.integers(1, 5))
def test_a_stream_of_text_is_the_text(tokenizer: Tokenizer, text: str, size: int) -> None:
    pieces, rest = streamed(tokenizer, tokenizer.encode(text)[1:], size)
    assert "".join(pieces) + rest == text


@pytest.mark.parametrize("text", TEXTS)
def test_no_character_is_split(tokenizer: Tokenizer, text: str) -> None:
    pieces, rest = streamed(tokenizer, tokenizer.encode(text)[1:], 1)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    assert rest == ""


@given(tokens=st.lists(st.integers(0, 4095), max_size=30), size=st.integers(1, 5))
def test_a_stream_of_any_tokens_is_their_text(tokenizer: Tokenizer, tokens: list[int], size: int) -> None:
    """Models may give any tokens: halves of characters, continuation bytes, special tokens."""
    pieces, rest = streamed(tokenizer, tokens, size)
    assert "".join(pieces) + rest == tokenizer.decode(tokens)


def test_an_unfinished_character_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ab 👍")[1:-1]
    pieces, rest = streamed(tokenizer, tokens, 1)
    assert "".join(pieces) == "ab "
    assert set(rest) == {"\ufffd"}


def test_text_comes_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("import os\n")[1:]
    pieces, rest = streamed(tokenizer, tokens, 1)
    assert pieces == [tokenizer.decode([token]) for token in tokens]
    assert rest == ""


def test_the_chat_template(tokenizer: Tokenizer, specials: tuple[int, int]) -> None:
    messages = [{"role": "system", "content": "import os"}, {"role": "user", "content": "x = 1"}]
    tokens = tokenizer.encode_chat(messages)
    assert tokens[0] == specials[0]
    assert tokens.count(specials[0]) == 1
    assert tokenizer.decode(tokens) == "import os\nx = 1\n"


def test_a_template_may_refuse(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(tokenizer._tokenizer, "chat_template", template)
    with pytest.raises(RequestError, match="chat template refuses these messages: roles must alternate"):
        tokenizer.encode_chat([{"role": "user", "content": "x"}])


def test_a_model_without_a_template_says_so(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer._tokenizer, "chat_template", None)
    with pytest.raises(RequestError, match="no chat template; send it plain prompts"):
        tokenizer.encode_chat([{"role": "user", "content": "x"}])


def test_a_directory_without_a_tokenizer_is_a_model_error(untied_dir: Path, tmp_path: Path) -> None:
    for model_dir in (untied_dir, tmp_path):
        with pytest.raises(ModelError, match="has no usable tokenizer"):
            Tokenizer(model_dir)


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense"])
def test_a_damaged_tokenizer_is_a_model_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json (is no tokenizer|is no JSON|must hold an object)"):
        Tokenizer(tmp_path)
