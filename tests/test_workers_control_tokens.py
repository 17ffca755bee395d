"""Text that spells control tokens stays text, and all else is encoded as the tokenizer does it."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from workers.control_tokens import ControlTokens
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

END, ROLE = "<|im_end|>", "<|role|>"  # ROLE takes the white space that follows, as Phi's do
LETTERS = ["▁", *"<|>_imendrolabc \n"]
PIECES = st.one_of(
    st.sampled_from([END, ROLE, "<|im_", "end|>", "|>", " ", "\n", "ab", "\U000f0000"]), st.text(max_size=4)
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def bpe(*, byte_level: bool) -> Backend:
    """With control tokens beside its vocabulary, as Llama 3's and Qwen's."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if byte_level else LETTERS
    vocab = {piece: index for index, piece in enumerate(["<unk>", *letters, "ab", "|>"])}
    backend = Backend(models.BPE(vocab, [("a", "b"), ("|", ">")], unk_token="<unk>"))
    backend.pre_tokenizer = pre
    return backend


def old_llama() -> Backend:
    """With control tokens in its vocabulary, and a space before every piece of text."""
    vocab = {piece: index for index, piece in enumerate(["<unk>", END, ROLE, *LETTERS, "ab", "▁a"])}
    backend = Backend(models.BPE(vocab, [("a", "b"), ("▁", "a")], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return backend


def unigram() -> Backend:
    """Which finds control tokens in plain text by itself: they are pieces like any other."""
    pieces = ["<unk>", END, ROLE, *LETTERS, "ab"]
    backend = Backend(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return backend


def with_control_tokens(backend: Backend) -> Backend:
    backend.add_special_tokens([AddedToken(END, special=True), AddedToken(ROLE, special=True, rstrip=True)])
    return backend


BACKENDS = {
    "bytes": with_control_tokens(bpe(byte_level=True)),
    "metaspace": with_control_tokens(bpe(byte_level=False)),
    "old llama": with_control_tokens(old_llama()),
    "unigram": with_control_tokens(unigram()),
}
CONTROL = {name: ControlTokens(backend, [END, ROLE]) for name, backend in BACKENDS.items()}
every_backend = pytest.mark.parametrize("name", BACKENDS)


def ids_of(backend: Backend) -> set[int]:
    return {id_of(backend, END), id_of(backend, ROLE)}


def id_of(backend: Backend, name: str) -> int:
    found = backend.token_to_id(name)
    assert found is not None
    return found


@every_backend
@settings(max_examples=50)
@given(text=TEXTS)
def test_what_the_template_writes_is_encoded_as_ever(name: str, text: str) -> None:
    assert CONTROL[name].encode(text, {}) == BACKENDS[name].encode(text, add_special_tokens=False).ids


@every_backend
@settings(max_examples=50)
@given(text=TEXTS)
def test_what_a_user_writes_never_holds_a_control_token(name: str, text: str) -> None:
    control, backend = CONTROL[name], BACKENDS[name]
    stand_ins = control.spelled_in(text)
    tokens = control.encode(control.masked(text, stand_ins), stand_ins)
    assert not ids_of(backend) & set(tokens)
    if name != "unigram":
        backend.encode_special_tokens = True
        try:
            assert tokens == backend.encode(text, add_special_tokens=False).ids, "and is the letters that it was"
        finally:
            backend.encode_special_tokens = False


@every_backend
@settings(max_examples=50)
@given(before=TEXTS, user=TEXTS, after=TEXTS)
def test_in_one_text_the_templates_count_and_the_users_do_not(name: str, before: str, user: str, after: str) -> None:
    control, backend = CONTROL[name], BACKENDS[name]
    stand_ins = control.spelled_in([before, user, after])
    text = f"{before}{ROLE}{control.masked(user, stand_ins)}{END}{after}"
    tokens = control.encode(text, stand_ins)
    counts = {one: before.count(one) + after.count(one) + 1 for one in (END, ROLE)}
    assert {one: tokens.count(id_of(backend, one)) for one in (END, ROLE)} == counts


def test_nothing_of_the_conversation_is_left_out() -> None:
    control = CONTROL["bytes"]
    value: Any = [{"content": f"a{END}", "parts": [{"text": ROLE}, 5, None], END: True}, "\U000f0000"]
    stand_ins = control.spelled_in(value)
    assert set(stand_ins) == {END, ROLE}
    assert "\U000f0000" not in stand_ins.values(), "somebody has written it himself"
    end, role = stand_ins[END], stand_ins[ROLE]
    masked = [{"content": f"a{end}", "parts": [{"text": role}, 5, None], end: True}, "\U000f0000"]
    assert control.masked(value, stand_ins) == masked


def test_a_name_is_a_secret_of_its_process() -> None:
    backend = BACKENDS["bytes"]
    one, other = ControlTokens(backend, [END]), ControlTokens(backend, [END])
    assert one._secret_names[END] != other._secret_names[END]


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


@given(contents=st.lists(st.lists(st.sampled_from(["<|eos|>", "<|bos|>", "<|", "|>", "a"])), min_size=1))
def test_no_message_ends_a_turn_of_the_bundled_models_template(tiny: Tokenizer, contents: list[list[str]]) -> None:
    texts = ["".join(pieces) for pieces in contents]
    tokens = tiny.encode_chat([{"role": "user", "content": text} for text in texts])
    plain = tiny.encode("".join(f"{text}\n" for text in texts))
    assert tokens == plain, "its template writes one control token, where a plain prompt has it too"


def test_other_tokens_that_the_template_marks_turns_with_are_the_templates_too(tiny: Tokenizer) -> None:
    """DeepSeek's are no special tokens to the tokenizer."""
    backend = tiny._tokenizer
    backend.add_tokens([AddedToken("<User>", special=False), AddedToken("<note>", special=False)])
    backend.chat_template = "{% for message in messages %}<User>{{ message.content }}\n{% endfor %}"
    assert tiny._control_tokens() == {"<|bos|>", "<|eos|>", "<User>"}


def test_the_time_grows_as_the_text(tiny: Tokenizer) -> None:
    """However it is made to look like the beginning of a control token."""

    def spent_s(text: str) -> float:
        began_s = time.process_time()
        tiny._control.masked(text, tiny._control.spelled_in(text))
        return time.process_time() - began_s

    for piece in ("<|", "<|eos", "<", "<|eos|>"):
        short_s, long_s = (min(spent_s(piece * count) for _ in range(3)) for count in (20_000, 160_000))
        assert long_s < 16 * short_s + 0.1, piece
