"""The text that activations are taken from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from workers.models.spec import ModelSpec
from workers.text_file import read_text_file
from workers.tokenizer import Tokenizer
from workers.validation import RequestError
from workers.weights.manifest import Calibration

CONTEXT = 512  # tokens of a text at most: attention to more takes most of the time and tells the matrices little new
MIN_TOKENS, MAX_TOKENS = 512, 256 * CONTEXT
MAX_CHARACTERS = 16 * MAX_TOKENS  # that are tokenised: more than so many tokens have in any language


@dataclass(frozen=True)
class CalibrationText:
    """Texts of up to `CONTEXT` tokens, each int64 [tokens], and what the manifest says of them."""

    texts: tuple[torch.Tensor, ...]
    about: Calibration


def read_calibration(path: Path, model_dir: Path, spec: ModelSpec) -> CalibrationText:
    """The beginning of a text file, up to `MAX_TOKENS`, cut into texts.

    Raises:
        RequestError: the file is no text, or has too little of it.
    """
    text = read_text_file(path)
    tokens = Tokenizer(model_dir).encode(text[:MAX_CHARACTERS])[:MAX_TOKENS]
    if len(tokens) < MIN_TOKENS:
        raise RequestError(
            f"{path} has {len(tokens)} tokens; at least {MIN_TOKENS} are needed, and {MAX_TOKENS:,} are used where "
            "there are as many: take more text of the kind that the model will read"
        )
    data = text.encode()
    texts = torch.split(torch.tensor(tokens), min(CONTEXT, spec.max_model_len))
    return CalibrationText(texts, Calibration(hashlib.sha256(data).hexdigest(), len(data), len(tokens)))
