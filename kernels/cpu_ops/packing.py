"""Weights laid out for the CPU operators, once, when they are loaded."""

import ctypes

import torch

from kernels.int4 import PackedInt4

LANES = 16  # outputs of a panel
LINE_BYTES = 64


class Int4RowsStruct(ctypes.Structure):
    """`Int4Rows` in packing.h."""

    _fields_ = (
        ("nibbles", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("num_outputs", ctypes.c_int32),
        ("num_inputs", ctypes.c_int32),
        ("group_size", ctypes.c_int32),
    )


def pack_int4(library: ctypes.CDLL, packed: PackedInt4) -> torch.Tensor:
    """The layout of int4.h: uint8 [panels * groups * (64 + 8 * group_size)], aligned. Outputs are padded with zeros."""
    num_outputs, num_inputs = packed.shape
    nibbles, scales = packed.nibbles.contiguous(), packed.scales.half().contiguous()
    offsets = packed.zeros.half().add_(128).contiguous()
    group_bytes = LINE_BYTES + 8 * packed.group_size
    out = aligned(num_outputs, num_inputs // packed.group_size * group_bytes)
    rows = Int4RowsStruct(
        nibbles.data_ptr(), scales.data_ptr(), offsets.data_ptr(), num_outputs, num_inputs, packed.group_size
    )
    library.raydix_pack_int4(ctypes.byref(rows), out.data_ptr(), torch.get_num_threads())
    return out


def pack_bfloat16(library: ctypes.CDLL, weight: torch.Tensor) -> torch.Tensor:
    """Pairs of neighbouring inputs, 16 outputs side by side: uint8 [panels * K * 32], aligned, padded with zeros."""
    weight = weight.contiguous()
    num_outputs, columns = len(weight), weight.shape[1] // 2
    out = aligned(num_outputs, columns * LINE_BYTES)
    library.raydix_pack_words(weight.data_ptr(), out.data_ptr(), num_outputs, columns, torch.get_num_threads())
    return out


def aligned(num_outputs: int, panel_bytes: int) -> torch.Tensor:
    """Memory for panels at an address that is a multiple of 64, so that no load straddles two cache lines.

    The last panel is zeros where there are outputs for a part of it only.
    """
    num_bytes = -(-num_outputs // LANES) * panel_bytes
    memory = torch.empty(num_bytes + LINE_BYTES, dtype=torch.uint8)
    start = -memory.data_ptr() % LINE_BYTES
    out = memory[start : start + num_bytes]
    if num_outputs % LANES:
        out[-panel_bytes:] = 0
    return out
