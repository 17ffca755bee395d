"""Reading tensors by name from the safetensors files of a model directory, whether one file or many."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from workers.models.spec import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class Checkpoint:
    """The tensors of a Hugging Face safetensors checkpoint. Tensors are read when asked for, one at a time."""

    def __init__(self, model_dir: Path) -> None:
        """Raises ModelError where there is no safetensors checkpoint or an index names files it must not."""
        self._file_of = find_tensors(model_dir)

    @property
    def names(self) -> set[str]:
        """All tensors."""
        return set(self._file_of)

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """One tensor. Raises ModelError where it is missing, misshapen, not a float, or damaged."""
        if name not in self._file_of:
            raise ModelError(f"the checkpoint lacks {name}")
        path = self._file_of[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: {name} cannot be read: {error}") from error
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ModelError(f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected a float {shape}")
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} holds NaN or infinity; the checkpoint is damaged")
        return tensor


def find_tensors(model_dir: Path) -> dict[str, Path]:
    """Map each tensor to its file; pickled checkpoints (.bin, .pt) are never opened."""
    if (model_dir / INDEX_FILE).is_file():
        return read_index(model_dir)
    path = model_dir / SINGLE_FILE
    try:
        with safe_open(path, framework="pt") as file:
            return dict.fromkeys(file.keys(), path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Only safetensors checkpoints are served") from error


def read_index(model_dir: Path) -> dict[str, Path]:
    path = model_dir / INDEX_FILE
    try:
        weight_map = dict(json.loads(path.read_text("utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a safetensors index: {error}") from error
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ModelError(f"{path}: {name} is said to be in {file!r}, which is not a file of this directory")
    return {name: model_dir / file for name, file in weight_map.items()}
