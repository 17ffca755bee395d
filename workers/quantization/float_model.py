"""The checkpoint that is to be quantised: floats, read layer by layer."""

import json
from pathlib import Path
from typing import Any

import torch

from workers.model_error import ModelError
from workers.models.config_fields import ConfigFields
from workers.models.spec import read_checked, read_model_spec
from workers.models.tensor_shapes import EMBEDDING, HEAD, layer_shapes
from workers.weights.checkpoint import Checkpoint, check_tensors
from workers.weights.model_file import find_file

CONFIG_FILE = "config.json"
OUTSIDE = (EMBEDDING, "model.norm.weight", HEAD)


class FloatModel:
    """A Hugging Face model directory whose tensors are floats.

    Attributes:
        dtype: what the matrices are stored as; float32 for float64.
    """

    def __init__(self, directory: Path) -> None:
        """Reads configuration and headers. Raises ModelError where it is no such model, or is quantised already."""
        self.directory = directory
        self.spec = read_model_spec(directory)
        read_checked(directory / CONFIG_FILE, refuse_quantized)
        self._checkpoint = Checkpoint(directory)
        check_tensors(self._checkpoint, self.spec)
        stored = self._checkpoint.tensors["model.layers.0.mlp.down_proj.weight"].dtype
        self.dtype = torch.float32 if stored == torch.float64 else stored

    @property
    def config(self) -> dict[str, Any]:
        """All of config.json."""
        config: dict[str, Any] = json.loads(find_file(self.directory, CONFIG_FILE).read_json())
        return config

    def layer(self, index: int) -> dict[str, torch.Tensor]:
        """A layer's tensors by their names within it, float32."""
        prefix = f"model.layers.{index}"
        shapes = layer_shapes(self.spec)
        return {name: self._checkpoint.read(f"{prefix}.{name}", shape).float() for name, shape in shapes}

    def outside_layers(self) -> dict[str, torch.Tensor]:
        """What is never quantised, as it is stored: the embedding, the last norm and, where it is stored, the head."""
        tensors = self._checkpoint.tensors
        return {name: self._checkpoint.read(name, tensors[name].shape) for name in OUTSIDE if name in tensors}

    def embedding(self) -> torch.Tensor:
        """[vocab, hidden] as it is stored."""
        return self._checkpoint.read(EMBEDDING, (self.spec.vocab_size, self.spec.hidden_size))


def refuse_quantized(config: ConfigFields) -> None:
    if "quantization_config" in config:
        raise ModelError("it is quantised already (quantization_config); take the model that was made from")
