"""Tokenizers and embeddings of different sizes: rows without a token are never drawn, tokens without a row refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import edit_tensors, generate, request_of, small_engine
from tests.tiny_checkpoint import save_tiny, save_tokenizer
from workers.engine.engine import Engine
from workers.models.spec import ModelError, read_model_spec
from workers.models.tensor_shapes import HEAD
from workers.models.vocabulary import count_tokens
from workers.tokenizer import Tokenizer
from workers.weights.manifest import Making, write_manifest
from workers.weights.model_dir import TINY_MODEL

NUM_TOKENS = 20
SAMPLING: list[dict[str, object]] = [
    {},
    {"temperature": 8.0, "seed": 3},
    {"temperature": 8.0, "top_k": 3},
    {"temperature": 8.0, "top_p": 0.9, "min_p": 0.01},
    {"repetition_penalty": 1.5, "presence_penalty": 1.0},
    {"logit_bias": {31: 100.0}},
    {"logprobs": 4},
]


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A model whose output head likes best what its tokenizer has no token for."""
    model_dir = save_tiny(tmp_path / "model", eos_token_id=None)
    edit_tensors(model_dir, lambda tensors: tensors[HEAD][NUM_TOKENS:].mul_(50))
    return model_dir


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
def test_rows_of_the_embedding_without_a_token_are_never_drawn(padded: Path, sampling: dict[str, object]) -> None:
    """C29. They may stand in a prompt: whoever names them knows what for."""
    request = request_of("a", [1, 2, 31], 24, **sampling)
    without = generate(tiny_engine(padded), [request])["a"]
    save_tokenizer(padded, NUM_TOKENS)
    assert max(without) >= NUM_TOKENS
    assert max(generate(tiny_engine(padded), [request])["a"]) < NUM_TOKENS


def tiny_engine(model_dir: Path) -> Engine:
    return small_engine(model_dir, num_blocks=32, max_num_seqs=2).engine


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(padded: Path) -> None:
    """C29."""
    save_tokenizer(padded, 32)
    assert read_model_spec(padded).num_tokens == 32
    save_tokenizer(padded, 33)
    with pytest.raises(ModelError, match=r"tokenizer\.json: the tokenizer has 33 tokens, but vocab_size is 32; take"):
        read_model_spec(padded)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<more>": 32}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"32": {"content": "<more>"}}}),
    ],
)
def test_tokens_that_were_added_beside_it_count(padded: Path, name: str, content: object) -> None:
    """C30: special tokens are added in this way."""
    save_tokenizer(padded, NUM_TOKENS)
    (padded / name).write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer has 33 tokens, but vocab_size is 32"):
        read_model_spec(padded)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "", r"tokenizer\.json is no JSON"),
        ("tokenizer.json", "nonsense", r"tokenizer\.json is no JSON"),
        ("tokenizer.json", '{"model": {}}', r"tokenizer\.json is no tokenizer.*Take the one that came with the model"),
        ("tokenizer.json", "[" * 100_000, r"tokenizer\.json is no JSON"),
        ("tokenizer.json", '{"model": 1, "model": 2}', r"tokenizer\.json is no JSON: 'model' is there twice"),
        ("added_tokens.json", '{"a": "x"}', "has a bad token id"),
        ("added_tokens.json", '{"a": 1e999}', "has a bad token id"),
        ("added_tokens.json", "[]", r"added_tokens\.json must hold an object"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is no JSON"),
    ],
)
def test_a_broken_tokenizer_is_named(padded: Path, name: str, text: str, message: str) -> None:
    """C34."""
    save_tokenizer(padded, NUM_TOKENS)
    (padded / name).write_text(text, "utf-8")
    with pytest.raises(ModelError, match=message):
        read_model_spec(padded)


@pytest.mark.parametrize("prefix", ["x", "é", "##"])
def test_a_tokenizer_that_would_end_the_process_is_refused(padded: Path, prefix: str) -> None:
    """C34. The library cuts the prefix off tokens that do not have it, in the midst of a character."""
    vocab = {"\u0120": 0, "(": 1, "\u0120(": 2}
    model = {"type": "BPE", "vocab": vocab, "merges": [["\u0120", "\u0120"]], "continuing_subword_prefix": prefix}
    (padded / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}), "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json has the continuing_subword_prefix .* not served"):
        read_model_spec(padded)


@pytest.mark.parametrize("charsmap", ["AAA=", "BAAAAAAAAAA=", "?"])
def test_a_tokenizer_that_panics_is_refused(padded: Path, charsmap: str) -> None:
    """C34. Panics of the library are no Exceptions; these come when it is read, and when it meets a text."""
    content = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
    }
    (padded / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match=r"the tokenizers library fails on it: "):
        Tokenizer(padded)


def test_a_tokenizer_that_cannot_take_every_text_is_refused(padded: Path) -> None:
    """C34. It would fail at the first request that has a word it does not know."""
    save_tokenizer(padded, NUM_TOKENS)
    path = padded / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace('"unk_token": "w0"', '"unk_token": "w!"'), "utf-8")
    with pytest.raises(ModelError, match="has no usable tokenizer: WordLevel error: Missing"):
        Tokenizer(padded)


@pytest.mark.parametrize("read", [read_model_spec, Tokenizer])
def test_a_tokenizer_of_100_megabytes_is_not_read(padded: Path, read: Callable[[Path], object]) -> None:
    """C34."""
    save_tokenizer(padded, NUM_TOKENS)
    os.truncate(padded / "tokenizer.json", 100_000_001)
    with pytest.raises(ModelError, match=r"tokenizer\.json has 100000001 bytes; at most 100000000"):
        read(padded)


def test_another_model_s_tokenizer_is_found_by_the_manifest(padded: Path) -> None:
    """C34. It has as many tokens, so nothing but its digest tells."""
    save_tokenizer(padded, NUM_TOKENS)
    write_manifest(padded, Making("none", {}))
    tiny_engine(padded)
    path = padded / "tokenizer.json"
    words = path.read_text("utf-8")
    path.write_text(words.replace('"w3"', '"w?"').replace('"w4"', '"w3"').replace('"w?"', '"w4"'), "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged or was changed: its SHA-256 is"):
        tiny_engine(padded)


def test_a_model_without_a_tokenizer_may_draw_all_it_has(padded: Path) -> None:
    assert count_tokens(padded) is None
    assert read_model_spec(padded).num_tokens == 32


def test_the_bundled_model_has_a_token_for_each_row() -> None:
    assert count_tokens(TINY_MODEL) == Tokenizer(TINY_MODEL).vocab_size == read_model_spec(TINY_MODEL).vocab_size
