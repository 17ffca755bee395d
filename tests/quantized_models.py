"""Quantised checkpoints written one integer at a time, after the formats' published definitions and not our readers."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from kernels.int4 import quantize, unpack_nibbles
from tests.helpers import Tensors

GROUP_SIZE = 16
GPTQ_CONFIG: dict[str, object] = {
    "quant_method": "gptq", "bits": 4, "group_size": GROUP_SIZE, "desc_act": False, "sym": False,
}  # fmt: skip
AWQ_CONFIG: dict[str, object] = {
    "quant_method": "awq", "bits": 4, "group_size": GROUP_SIZE, "zero_point": True, "version": "gemm",
}  # fmt: skip


def compressed_config(**weights: object) -> dict[str, object]:
    scheme = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": GROUP_SIZE}
    group = {"targets": ["Linear"], "weights": scheme | weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)  # the outputs whose nibbles are at bits 0, 4, 8 and so on of a word


@dataclass(frozen=True)
class Quantized:
    """A matrix of N outputs and K inputs: weight = (value - zero) * scale of its group.

    Attributes:
        values: uint8 [N, K].
        scales: float16 or bfloat16 [N, G].
        zeros: uint8 [N, G].
        group_of: int32 [K], the group of each input.
    """

    values: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    group_of: torch.Tensor

    def floats(self) -> torch.Tensor:
        """float32 [N, K]."""
        zeros, scales = (matrix.float()[:, self.group_of.long()] for matrix in (self.zeros, self.scales))
        return (self.values.float() - zeros) * scales


def random_quantized(
    num_outputs: int, num_inputs: int, group_size: int, *, symmetric: bool, shuffled: bool = False, seed: int = 0
) -> Quantized:
    """Any integers at all; `shuffled` spreads the groups over the inputs, as act-order does."""
    generator = torch.Generator().manual_seed(seed)
    groups = num_inputs // group_size
    shape = (num_outputs, groups)
    group_of = torch.arange(num_inputs, dtype=torch.int32) // group_size
    return Quantized(
        torch.randint(0, 16, (num_outputs, num_inputs), generator=generator, dtype=torch.uint8),
        (torch.rand(shape, generator=generator) + 0.01).half(),
        torch.full(shape, 8, dtype=torch.uint8)
        if symmetric
        else torch.randint(1, 16, shape, generator=generator, dtype=torch.uint8),
        group_of[torch.randperm(num_inputs, generator=generator)] if shuffled else group_of,
    )


def quantized_from(weight: torch.Tensor, group_size: int) -> Quantized:
    """A float matrix, rounded."""
    packed = quantize(weight, group_size)
    group_of = torch.arange(weight.shape[1], dtype=torch.int32) // group_size
    return Quantized(unpack_nibbles(packed.nibbles), packed.scales.half(), packed.zeros, group_of)


def word(values: Iterable[int], bits: int = 4) -> int:
    """An int32 whose lowest bits are the first value."""
    total = sum(int(value) << (bits * index) for index, value in enumerate(values))
    return total - 2**32 if total >= 2**31 else total


def words(rows: Iterable[Iterable[Iterable[int]]], bits: int = 4) -> torch.Tensor:
    """int32 [rows, words] from the values of each word."""
    return torch.tensor([[word(values, bits) for values in row] for row in rows], dtype=torch.int32)


def eights(values: torch.Tensor) -> list[list[list[int]]]:
    """Rows cut into eights, the last one filled up with zeros."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % 8))
    found: list[list[list[int]]] = padded.view(len(values), -1, 8).tolist()
    return found


def gptq(matrix: Quantized, *, zero_offset: int = 1) -> Tensors:
    """AutoGPTQ's tensors; `zero_offset` 0 for format gptq_v2."""
    stored_zeros = matrix.zeros.T.to(torch.int32) - zero_offset
    return {
        "qweight": words(eights(matrix.values)).T.contiguous(),
        "qzeros": words(eights(stored_zeros)),
        "scales": matrix.scales.T.contiguous(),
        "g_idx": matrix.group_of,
    }


def awq(matrix: Quantized) -> Tensors:
    """AutoAWQ's tensors for its GEMM kernel."""
    values, zeros = (
        [[[eight[i] for i in AWQ_OUTPUTS] for eight in row] for row in eights(m.T)]
        for m in (matrix.values, matrix.zeros)
    )
    return {"qweight": words(values), "qzeros": words(zeros), "scales": matrix.scales.T.contiguous()}


def compressed_tensors(matrix: Quantized, *, symmetric: bool) -> Tensors:
    """compressed-tensors' pack-quantized with 4 bits, with the order of the inputs where that is not the plain one."""
    tensors = {
        "weight_packed": words(eights(matrix.values)),
        "weight_scale": matrix.scales,
        "weight_shape": torch.tensor(matrix.values.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(eights(matrix.zeros.T)).T.contiguous()
    if (matrix.group_of.diff() < 0).any():
        tensors["weight_g_idx"] = matrix.group_of
    return tensors


def quantize_checkpoint(
    source: Path,
    target: Path,
    write: Callable[[Quantized], Tensors],
    config: dict[str, object],
    choose: Callable[[torch.Tensor], Quantized],
) -> tuple[Path, Path]:
    """A float checkpoint as a quantised one, and as the float one that this stands for.

    Returns:
        Both directories, under `target`.
    """
    tensors = load_file(source / "model.safetensors")
    packed, floats = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            matrix = choose(weight)
            del packed[name]
            packed |= {name.removesuffix("weight") + part: tensor for part, tensor in write(matrix).items()}
            floats[name] = matrix.floats()
    paths = []
    for name, saved in (("packed", packed), ("floats", floats)):
        path = Path(shutil.copytree(source, target / name))
        save_file({key: tensor.contiguous() for key, tensor in saved.items()}, path / "model.safetensors")
        paths.append(path)
    fields = json.loads((paths[0] / "config.json").read_text("utf-8"))
    (paths[0] / "config.json").write_text(json.dumps(fields | {"quantization_config": config}), "utf-8")
    return paths[0], paths[1]
