"""What a model's weights take: parameters, and bytes as they are served, by part; whether a device can hold them."""

import os
from collections import Counter
from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from workers.config import WeightConfig
from workers.model_error import ModelError
from workers.models.spec import ModelSpec
from workers.models.tensor_shapes import layer_shapes

PARTS = ("embedding", "attention", "mlp", "norms", "head")
COEFFICIENT_BYTES = 4  # a group's scale and zero point, in the layouts of the CPU's and the GPU's kernels
VECTOR_BYTES = 4  # biases and norms are served as float32
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def part_of(name: str) -> str:
    """Which of `PARTS` a tensor belongs to, by its name in the checkpoint."""
    if "norm" in name:
        return "norms"
    if name.startswith("model.embed_tokens"):
        return "embedding"
    if name.startswith("lm_head"):
        return "head"
    return "attention" if ".self_attn." in name or name.startswith("self_attn.") else "mlp"


def count_parameters(spec: ModelSpec) -> Counter[str]:
    """Parameters by part. A tied head has none of its own."""
    counts = Counter(dict.fromkeys(PARTS, 0))
    for name, shape in layer_shapes(spec):
        counts[part_of(name)] += spec.num_layers * prod(shape)
    table = spec.vocab_size * spec.hidden_size
    counts.update({"embedding": table, "norms": spec.hidden_size, "head": 0 if spec.tie_word_embeddings else table})
    return counts


def served_bytes(spec: ModelSpec, config: WeightConfig) -> Counter[str]:
    """Bytes by part in a worker's memory. A head is a copy in its kernel's own layout, tied or not."""
    counts = Counter(dict.fromkeys(PARTS, 0))
    for name, shape in layer_shapes(spec):
        num_bytes = matrix_bytes(prod(shape), config) if len(shape) == 2 else prod(shape) * VECTOR_BYTES
        counts[part_of(name)] += spec.num_layers * num_bytes
    table = matrix_bytes(spec.vocab_size * spec.hidden_size, replace(config, quantization="none"))
    counts.update({"embedding": table, "norms": spec.hidden_size * VECTOR_BYTES, "head": table})
    return counts


def matrix_bytes(num_weights: int, config: WeightConfig) -> int:
    """Bytes of a layer's matrix as `config` asks for it."""
    if config.quantization == "int4":
        return packed_bytes(num_weights, num_weights // max(config.group_size, 1))
    itemsize: int = getattr(torch, config.dtype).itemsize
    return num_weights * itemsize


def packed_bytes(num_weights: int, num_groups: int) -> int:
    """Bytes of a matrix in int4."""
    return num_weights // 2 + num_groups * COEFFICIENT_BYTES


def check_fits(spec: ModelSpec, config: WeightConfig, device: torch.device) -> None:
    """Raise ModelError where a device cannot hold the weights at all: before anything is allocated for them."""
    needed, there = sum(served_bytes(spec, config).values()), memory_bytes(device)
    if needed > there:
        raise ModelError(
            f"config.json describes a model whose weights take {needed / 2**30:,.1f} GiB as they would be served "
            f"({config.quantization}, {config.dtype}), and this {device.type} has {there / 2**30:,.1f} GiB in all; "
            "take a smaller model or a larger machine"
        )


def memory_bytes(device: torch.device) -> int:
    """All memory of a device, used or not; of a CPU no more than the container may have."""
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical
