"""Tensors of a GGUF file: Q4_0 as it is, everything else decoded to floats by the `gguf` package."""

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from kernels.int4 import PackedInt4, pack_nibbles
from workers.model_error import ModelError
from workers.weights.checkpoint import check_values
from workers.weights.gguf_header import GgufHeader

Kind = GGMLQuantizationType
SERVED = (
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0,
    Kind.Q4_K, Kind.Q5_K, Kind.Q6_K,
)  # fmt: skip
FLOATS = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
GROUP_SIZE = GGML_QUANT_SIZES[Kind.Q4_0][0]
ZERO = 8  # the nibble of Q4_0 that stands for 0.0
CHUNK_VALUES = 2**22  # decoded at a time: the package works with several float32 copies


def read_tensor(header: GgufHeader, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor as floats: those of the file, or float32. Raises ModelError where it is not there or not served."""
    data, kind = read_bytes(header, name, shape), header.tensors[name].kind
    if kind in FLOATS:
        floats = data.view(FLOATS[kind]).view(shape)
    else:
        rows = data.view(*shape[:-1], -1).numpy()
        step = max(1, CHUNK_VALUES // shape[-1])
        floats = torch.empty(shape)
        with np.errstate(all="ignore"):  # a scale that is no number is found below, with a name to it
            for row in range(0, len(rows), step):
                floats[row : row + step] = torch.from_numpy(dequantize(rows[row : row + step], kind))
    check_values(f"{header.file.path}: {name}", floats, may_be_zero=name.endswith(".bias"))
    return floats


def read_q4_0(header: GgufHeader, name: str, shape: tuple[int, int]) -> PackedInt4:
    """A Q4_0 matrix without loss. A block of 32 weights is a float16 scale and 16 bytes: the first half of the weights
    in the low nibbles, the second in the high ones; weight = (nibble - 8) * scale.

    A negative scale is turned around: (q - 8) d = ((15 - q) - 7) (-d). A block whose scale is 0 is 32 zeros.
    """
    blocks = read_bytes(header, name, shape).view(shape[0], shape[1] // GROUP_SIZE, -1)
    scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0].float()
    if not scales.isfinite().all():
        raise ModelError(f"{header.file.path}: {name} has scales that are no numbers; download the file again")
    halves = blocks[..., 2:]
    values = torch.cat([halves & 15, halves >> 4], dim=-1)
    values = torch.where((scales < 0)[..., None], 15 - values, values)
    values = torch.where((scales == 0)[..., None], ZERO, values)
    zeros = torch.where(scales < 0, ZERO - 1, ZERO).to(torch.uint8)
    scales = torch.where(scales == 0, torch.finfo(torch.float16).smallest_normal, scales.abs())
    return PackedInt4(pack_nibbles(values.view(shape)), scales, zeros, GROUP_SIZE)


def read_bytes(header: GgufHeader, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """All bytes of a tensor, uint8. Raises ModelError where it is missing, misshapen, or of a type not served."""
    tensor = header.tensors.get(name)
    if tensor is None:
        raise ModelError(f"{header.file.path} lacks {name} {list(shape)}, which its metadata ask for")
    if tensor.shape != shape:
        raise ModelError(f"{header.file.path}: {name} is {list(tensor.shape)}, but the metadata ask for {list(shape)}")
    if tensor.kind not in SERVED:
        raise ModelError(
            f"{header.file.path}: {name} is of type {tensor.kind.name}; served are "
            f"{', '.join(kind.name for kind in SERVED)}: quantise the model to one of them"
        )
    data = torch.empty(tensor.num_bytes, dtype=torch.uint8)
    header.file.read_into(tensor.offset, data.numpy().data)
    return data
