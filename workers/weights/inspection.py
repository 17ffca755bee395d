"""What a model is and takes, from its configuration and its headers alone: no tensor is read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from kernels.int4 import check_group_size
from workers.config import WeightConfig
from workers.engine.build import check_model, kv_bytes_per_token
from workers.models.spec import ModelError, ModelSpec, read_checked
from workers.models.tensor_shapes import EMBEDDING, HEAD, layer_shapes, tensor_shapes
from workers.weights.checkpoint import Checkpoint
from workers.weights.footprint import COEFFICIENT_BYTES, PARTS, count_parameters, part_of, served_bytes
from workers.weights.matrix import MAX_GROUP
from workers.weights.safetensors_header import StoredTensor

# What a packed matrix is stored in, by the names of all formats.
WORDS = ("qweight", "weight_packed")
SCALES = ("scales", "weight_scale")


@dataclass(frozen=True)
class Part:
    """A part of a model: how many parameters it has, and how many bytes they take in its files and in a worker."""

    parameters: int
    stored_bytes: int
    served_bytes: int


@dataclass(frozen=True)
class Room:
    """What some memory holds beside the weights: none of either where it does not even hold those."""

    memory_bytes: int
    kv_tokens: int
    full_sequences: int


@dataclass(frozen=True)
class Inspection:
    """A model at a glance.

    Attributes:
        format: what its files are.
        served_as: what its matrices are in a worker.
        parts: by the names in `workers.weights.footprint.PARTS`.
        max_model_len: tokens that a sequence may have.
    """

    format: str
    architecture: str
    served_as: str
    parts: dict[str, Part]
    kv_bytes_per_token: int
    max_model_len: int
    vocab_size: int

    @property
    def total(self) -> Part:
        """All parts together."""
        parts = self.parts.values()
        return Part(*(sum(getattr(part, name) for part in parts) for name in Part.__dataclass_fields__))

    def room_in(self, memory_bytes: int) -> Room:
        """What so much memory holds, without what a step's buffers take."""
        kv_tokens = max(0, memory_bytes - self.total.served_bytes) // self.kv_bytes_per_token
        return Room(memory_bytes, kv_tokens, kv_tokens // self.max_model_len)


def inspect_model(model_dir: Path, config: WeightConfig) -> Inspection:
    """Look at a model that is to be served by `config`. Raises ModelError for one that cannot be."""
    spec, _ = check_model(model_dir)
    tensors = Checkpoint(model_dir).tensors
    fields = read_checked(model_dir / "config.json", lambda fields: fields)
    method = fields.object("quantization_config").get("quant_method")
    stored: Counter[str] = Counter()
    for name, tensor in tensors.items():
        stored[part_of(name)] += tensor.num_bytes
    if not method:
        check_groups(spec, config)
    parameters = count_parameters(spec)
    served = packed_bytes(tensors, spec, config) if method else served_bytes(spec, config)
    return Inspection(
        format=str(method) if method else f"{main_dtype(tensors)} safetensors",
        architecture=fields.any("architectures")[0],
        served_as="as it is stored" if method else served_as(config),
        parts={part: Part(parameters[part], stored[part], served[part]) for part in PARTS},
        kv_bytes_per_token=kv_bytes_per_token(spec, getattr(torch, config.dtype)),
        max_model_len=spec.max_model_len,
        vocab_size=spec.vocab_size,
    )


def check_groups(spec: ModelSpec, config: WeightConfig) -> None:
    """Raise ModelError where the group size does not fit a matrix that is to be packed."""
    for name, shape in layer_shapes(spec):
        if len(shape) == 2 and config.quantization == "int4":
            try:
                check_group_size(shape[1], config.group_size)
            except ValueError as error:
                raise ModelError(f"{name}: {error}") from error


def packed_bytes(tensors: Mapping[str, StoredTensor], spec: ModelSpec, config: WeightConfig) -> Counter[str]:
    """`served_bytes` of a checkpoint that was quantised already: what has 4 bits keeps them, the rest are floats."""
    counts = served_bytes(spec, replace(config, quantization="none"))
    itemsize: int = getattr(torch, config.dtype).itemsize
    for name, shape in tensor_shapes(spec):
        parts = {tail: tensors.get(f"{name.removesuffix('.weight')}.{tail}") for tail in (*WORDS, *SCALES)}
        words, scales = (next(filter(None, map(parts.get, tails)), None) for tails in (WORDS, SCALES))
        if name in (EMBEDDING, HEAD) or words is None or scales is None:
            continue
        weights = prod(shape)
        if words.num_bytes < weights * 3 // 4:  # neither 8 bits
            groups = max(prod(scales.shape), weights // MAX_GROUP)  # longer groups are cut
            counts[part_of(name)] += weights // 2 + groups * COEFFICIENT_BYTES - weights * itemsize
    return counts


def main_dtype(tensors: Mapping[str, StoredTensor]) -> str:
    """What most bytes are."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[str(tensor.dtype).removeprefix("torch.")] += tensor.num_bytes
    return counts.most_common(1)[0][0]


def served_as(config: WeightConfig) -> str:
    """What the matrices of a checkpoint of floats are in a worker."""
    return f"int4 in groups of {config.group_size}" if config.quantization == "int4" else config.dtype
