"""What a model is and takes, from its configuration and its headers alone: no tensor is read."""

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from kernels.int4 import check_group_size
from workers.config import WeightConfig
from workers.engine.build import check_model, kv_bytes_per_token
from workers.models.spec import ModelError, ModelSpec
from workers.models.tensor_shapes import EMBEDDING, HEAD, tensor_shapes
from workers.weights.footprint import PARTS, count_parameters, matrix_bytes, packed_bytes, part_of, served_bytes
from workers.weights.matrix import MAX_GROUP
from workers.weights.stored_model import StoredModel, read_stored


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


def inspect_model(model: Path, config: WeightConfig) -> Inspection:
    """Look at a model that is to be served in int4 by `config`. Raises ModelError for one that cannot be."""
    spec, _ = check_model(model)
    stored = read_stored(model, spec)
    parameters, in_memory = count_parameters(spec), bytes_in_memory(stored, spec, config)
    in_files: Counter[str] = Counter()
    for name, num_bytes in stored.num_bytes.items():
        in_files[part_of(name)] += num_bytes
    return Inspection(
        format=stored.format,
        architecture=stored.architecture,
        served_as=served_as(stored, config),
        parts={part: Part(parameters[part], in_files[part], in_memory[part]) for part in PARTS},
        kv_bytes_per_token=kv_bytes_per_token(spec, getattr(torch, config.dtype)),
        max_model_len=spec.max_model_len,
        vocab_size=spec.vocab_size,
    )


def served_as(stored: StoredModel, config: WeightConfig) -> str:
    """What a worker makes of the matrices."""
    if stored.keeps_floats:
        return "as it is stored" if stored.groups else config.dtype
    packed = f"int4 in groups of {config.group_size}"
    return f"as it is stored where that is int4, else {packed}" if stored.groups else packed


def bytes_in_memory(stored: StoredModel, spec: ModelSpec, config: WeightConfig) -> Counter[str]:
    """By part: what is packed already keeps its groups, the rest is packed by `config` or left as floats."""
    others = replace(config, quantization="none") if stored.keeps_floats else config
    counts = served_bytes(spec, others)
    for name, shape in tensor_shapes(spec):
        if name in stored.groups:
            groups = max(stored.groups[name], prod(shape) // MAX_GROUP)  # longer groups are cut
            counts[part_of(name)] += packed_bytes(prod(shape), groups) - matrix_bytes(prod(shape), others)
        elif others.quantization == "int4" and len(shape) == 2 and name not in (EMBEDDING, HEAD):
            check_group(name, shape[1], config.group_size)
    return counts


def check_group(name: str, num_inputs: int, group_size: int) -> None:
    """Raise ModelError where the group size does not fit a matrix that is to be packed."""
    try:
        check_group_size(num_inputs, group_size)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error
