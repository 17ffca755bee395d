"""Transformers' tokenizer of a model: from `tokenizer.json` and its settings, or from a GGUF file's metadata.

A llama2.c file has none in it; there the files beside it count.
"""

from pathlib import Path
from typing import Any

from workers.model_error import ModelError, one_line
from workers.models.vocabulary import TOKENIZER_FILE, count_tokens, panics_as_errors
from workers.weights.model_dir import GGUF, LLAMA2_C, model_files

PROBE = "a naïve 日本 🦊\u0378\x00"  # where a tokenizer lacks the token for what it does not know, this shows it


def load_tokenizer(model: Path) -> Any:
    """Never runs code of the model's. Raises ModelError where it has no usable tokenizer."""
    single = model.suffix == GGUF
    if model.suffix == LLAMA2_C:
        model = model.parent
    if not single and count_tokens(model) is None:  # before Transformers looks for it: it would hang at a pipe
        raise ModelError(f"{model} has no usable tokenizer: {TOKENIZER_FILE} is missing")
    model_files(model)
    from transformers import AutoTokenizer  # 2 s to import, and only the front door needs it

    try:
        with panics_as_errors():
            if single:
                tokenizer = load_gguf(AutoTokenizer, model)
            else:
                tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
            tokenizer.backend_tokenizer.encode(PROBE)
            return tokenizer
    except Exception as error:  # it raises whatever goes wrong
        raise ModelError(f"{model} has no usable tokenizer: {one_line(error)}") from error


def load_gguf(kind: Any, path: Path) -> Any:
    """Some files name a token that begins texts and say that it is not to be used: then it is as good as none."""
    tokenizer = kind.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False, local_files_only=True)
    if getattr(tokenizer, "add_bos_token", True) is False:
        tokenizer.bos_token = None
    return tokenizer
