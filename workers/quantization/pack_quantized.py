"""Quantised matrices as the compressed-tensors library stores them in its `pack-quantized` format, which
`workers.weights.compressed_tensors` describes and reads.
"""

from typing import Any

import torch
import torch.nn.functional as F

from kernels.int4 import pack_nibbles, swap_nibbles
from workers.quantization.grid import Quantized
from workers.quantization.options import QuantizeOptions


def stored_tensors(module: str, matrix: Quantized) -> dict[str, torch.Tensor]:
    """The tensors of a module, by their full names."""
    grid, bits = matrix.grid, matrix.grid.scheme.bits
    tensors = {
        "weight_packed": pack_words(matrix.levels, bits),
        "weight_scale": grid.scales.to(grid.scheme.scale_dtype),
        "weight_shape": torch.tensor(matrix.levels.shape),
    }
    if not grid.scheme.symmetric:
        tensors["weight_zero_point"] = pack_words(grid.zeros.to(torch.uint8).T, bits).T.contiguous()
    return {f"{module}.{name}": tensor for name, tensor in tensors.items()}


def pack_words(levels: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [N, K] of 4 or 8 bits as int32 [N, K * bits / 32], rounded up; the first level is in the lowest bits."""
    padded = F.pad(levels, (0, -levels.shape[1] % (32 // bits)))
    data = padded if bits == 8 else swap_nibbles(pack_nibbles(padded))
    return data.flatten().view(torch.int32).view(len(levels), -1)


def quantization_config(options: QuantizeOptions) -> dict[str, Any]:
    """What config.json says of the checkpoint. One scale for a whole matrix is stored as one for each channel."""
    grouped = options.granularity == "group"
    weights = {
        "num_bits": options.bits,
        "type": "int",
        "symmetric": options.symmetric,
        "strategy": "group" if grouped else "channel",
        "group_size": options.group_size if grouped else None,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
