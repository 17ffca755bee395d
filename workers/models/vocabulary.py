"""How many tokens a model's tokenizer has: an embedding may have more rows, which stand for nothing."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from workers.model_error import ModelError
from workers.weights.model_file import find_file

TOKENIZER_FILE = "tokenizer.json"


def count_tokens(model_dir: Path) -> int | None:
    """One more than the highest token id there is; None where the directory has no tokenizer.

    Raises ModelError for a tokenizer that cannot be read.
    """
    if not (model_dir / TOKENIZER_FILE).exists():
        return None
    tokenizer = read_tokenizer(model_dir)
    added = read_object(model_dir, "added_tokens.json").values()
    decoder = read_object(model_dir, "tokenizer_config.json").get("added_tokens_decoder")
    known = [*tokenizer.get_vocab().values(), *added, *(decoder if isinstance(decoder, dict) else ())]
    try:
        return max((int(token_id) for token_id in known), default=-1) + 1
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{model_dir}: added_tokens.json or tokenizer_config.json has a bad token id: {error}"
        ) from error


def read_tokenizer(model_dir: Path) -> Tokenizer:
    """`tokenizer.json` alone, as the tokenizers library reads it."""
    file = find_file(model_dir, TOKENIZER_FILE)
    data = file.read_json()
    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file.path} is no tokenizer: {error}. Take the one that came with the model") from error


def read_object(model_dir: Path, name: str) -> dict[str, Any]:
    """A JSON object that need not be there; empty where it is not."""
    if not (model_dir / name).exists():
        return {}
    file = find_file(model_dir, name)
    try:
        content = json.loads(file.read_json())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file.path} must hold an object, not a {type(content).__name__}")
    return content
