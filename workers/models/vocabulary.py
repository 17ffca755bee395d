"""How many tokens a model's tokenizer has: an embedding may have more rows, which stand for nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from workers.model_error import ModelError, one_line
from workers.models.config_fields import shown
from workers.weights.model_file import find_file, has_file
from workers.weights.safetensors_header import without_duplicates

TOKENIZER_FILE = "tokenizer.json"


def count_tokens(model_dir: Path) -> int | None:
    """One more than the highest token id there is; None where the directory has no tokenizer.

    Raises ModelError for a tokenizer that cannot be read.
    """
    if not has_file(model_dir, TOKENIZER_FILE):
        return None
    tokenizer = read_tokenizer(model_dir)
    added = read_object(model_dir, "added_tokens.json").values()
    decoder = read_object(model_dir, "tokenizer_config.json").get("added_tokens_decoder")
    known = [*tokenizer.get_vocab().values(), *added, *(decoder if isinstance(decoder, dict) else ())]
    try:
        return max((int(token_id) for token_id in known), default=-1) + 1
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{model_dir}: added_tokens.json or tokenizer_config.json has a bad token id: {error}"
        ) from error


def read_tokenizer(model_dir: Path) -> Tokenizer:
    """`tokenizer.json` alone, as the tokenizers library reads it."""
    check_subword_prefix(model_dir)
    file = find_file(model_dir, TOKENIZER_FILE)
    data = file.read_json()
    try:
        with panics_as_errors():
            return Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"{file.path} is no tokenizer: {one_line(error)}. Take the one that came with the model"
        ) from error


def check_subword_prefix(model_dir: Path) -> None:
    """Raise ModelError for byte-pair tokens with a prefix, which no model here has.

    Where a token of a merge lacks it, tokenizers 0.23 cuts characters apart and ends the process (SIGABRT).
    """
    model = read_object(model_dir, TOKENIZER_FILE).get("model")
    if isinstance(model, dict) and model.get("type") != "WordPiece" and model.get("continuing_subword_prefix"):
        prefix = model["continuing_subword_prefix"]
        raise ModelError(
            f"{model_dir / TOKENIZER_FILE} has the continuing_subword_prefix {shown(prefix)}, which is not served with "
            f"a model of type {shown(model.get('type'))}"
        )


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise ValueError for a panic in the tokenizers library's Rust, which is no Exception by itself."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizers library fails on it: {one_line(error)}") from error


def read_object(model_dir: Path, name: str) -> dict[str, Any]:
    """A JSON object that need not be there; empty where it is not."""
    if not has_file(model_dir, name):
        return {}
    file = find_file(model_dir, name)
    data = file.read_json()
    try:
        content = json.loads(data, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.path} is no JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file.path} must hold an object, not a {type(content).__name__}")
    return content
