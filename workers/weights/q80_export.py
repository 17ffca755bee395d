"""Writing llama2.c's int8 files."""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

import torch
from tqdm import tqdm

from workers.model_error import ModelError
from workers.models.spec import ModelSpec
from workers.weights.loader import TensorSource
from workers.weights.q80_checkpoint import header_of
from workers.weights.q80_file import ROTATED, q80_tensors
from workers.weights.rotary_rows import pairs_from_halves

MODEL_FILE = "model_q80.bin"
GROUP_SIZE = 64
LEVELS = 127
BESIDE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


def export_q80(model_dir: Path, source: TensorSource, spec: ModelSpec, target: Path) -> Path:
    """Write a model into `target`, a directory to be made, with the files beside it that say what the format does not.

    Tensors are read one at a time.

    Returns:
        The model file, which appears when it is whole.

    Raises:
        ModelError: the format cannot hold this model, or `target` is there already.
    """
    header = header_of(spec, GROUP_SIZE)
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise ModelError(f"{target} cannot be made: {error.strerror}; name one that is not there yet") from error
    partial = target / f"{MODEL_FILE}.partial"
    with partial.open("wb") as file:
        file.write(header.packed())
        for tensor in tqdm(list(q80_tensors(header)), "Exporting", unit="tensor", disable=None):
            floats = source.read(tensor.name, tensor.shape).float()
            if any(module in tensor.name for module in ROTATED):
                floats = floats[pairs_from_halves(len(floats), header.head_dim)]
            write(file, floats, tensor.group_size)
    os.replace(partial, target / MODEL_FILE)
    for name in BESIDE:
        if (model_dir / name).exists():
            shutil.copyfile(model_dir / name, target / name)
    return target / MODEL_FILE


def write(file: BinaryIO, floats: torch.Tensor, group_size: int) -> None:
    """int8 values between -127 and 127 and their scales, or float32 where the group size is 0."""
    if not group_size:
        file.write(floats.contiguous().numpy().tobytes())
        return
    groups = floats.reshape(-1, group_size)
    scales = groups.abs().amax(1) / LEVELS
    values = torch.round(groups / torch.where(scales > 0, scales, 1.0)[:, None]).to(torch.int8)
    file.write(values.numpy().tobytes())
    file.write(scales.numpy().tobytes())
