"""y = f(x) W^T on the CPU in C++: packed int4 or bfloat16 W, normalisation or gate fused in front, the sum behind.

A row's bits do not depend on the rows it is computed with.
"""

import ctypes

import torch

from kernels.cpu_ops.loader import load_library
from kernels.fusion import Fusion, Prologue
from kernels.int4 import PackedInt4, unpack_nibbles

LANES = 16
PAIR_SHIFTS = (0, 16, 4, 20, 8, 24, 12, 28)  # of a word's eight inputs: pair j stands at bits 4j and 4j + 16
MAX_INT8_GROUP = 256  # as in rows.h


class LinearStruct(ctypes.Structure):
    """`Linear` in linear.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("norm_weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("num_outputs", ctypes.c_int32),
        ("num_inputs", ctypes.c_int32),
        ("group_size", ctypes.c_int32),
        ("prologue", ctypes.c_int32),
        ("accumulate", ctypes.c_int32),
        ("int8_rows", ctypes.c_int32),
        ("eps", ctypes.c_float),
    )


class CpuLinear:
    """One linear layer (`kernels.linear.FusedLinear`).

    Args:
        weight: packed int4, or bfloat16 [N, K]; see `cpu_linear_fits`.
        fusion: what to do around the product.
        int8_rows: round the rows to int8, each group by a scale of its own, where they would be rounded to bfloat16;
            for packed weights with groups of at most 256.
    """

    def __init__(self, weight: PackedInt4 | torch.Tensor, fusion: Fusion, *, int8_rows: bool = False) -> None:
        library = load_library()
        if library is None or not cpu_linear_fits(weight, int8_rows=int8_rows):
            raise ValueError("this weight cannot be used with the CPU operators; ask cpu_linear_fits() first")
        self._run = library.raydix_linear
        self.num_outputs, self.num_inputs = weight.shape
        self._columns = self.num_inputs * (2 if fusion.prologue is Prologue.SILU_MUL else 1)
        self._data = pack_int4(weight) if isinstance(weight, PackedInt4) else pack_bfloat16(weight)
        self._fusion = fusion  # held, for the struct has only the addresses
        self.struct = LinearStruct(
            data=self._data.data_ptr(),
            norm_weight=address(fusion.norm_weight, self.num_inputs),
            bias=address(fusion.bias, self.num_outputs),
            num_outputs=self.num_outputs,
            num_inputs=self.num_inputs,
            group_size=weight.group_size if isinstance(weight, PackedInt4) else 0,
            prologue=fusion.prologue,
            accumulate=fusion.accumulate,
            int8_rows=int8_rows,
            eps=fusion.eps,
        )
        self._pointer = ctypes.addressof(self.struct)

    @property
    def num_bytes(self) -> int:
        """Memory of the weight, in bytes."""
        return self._data.nbytes

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply float32 [rows, K] (or [rows, 2K]): returns `out`, float32 [rows, N], made where it is not given."""
        rows = x.shape[0]
        if out is None:
            out = (torch.zeros if self._fusion.accumulate else torch.empty)(rows, self.num_outputs)
        if x.dtype != torch.float32 or not x.is_contiguous() or x.shape[1] != self._columns:
            raise ValueError(f"rows must be contiguous float32 [rows, {self._columns}], not {x.dtype} {tuple(x.shape)}")
        if out.dtype != torch.float32 or not out.is_contiguous() or out.shape != (rows, self.num_outputs):
            raise ValueError(
                f"out must be contiguous float32 {(rows, self.num_outputs)}, not {out.dtype} {tuple(out.shape)}"
            )
        self._run(self._pointer, x.data_ptr(), out.data_ptr(), rows, torch.get_num_threads())
        return out


def cpu_linear_fits(weight: PackedInt4 | torch.Tensor, *, int8_rows: bool = False) -> bool:
    """Whether the operators are there and take this weight: whole vectors of inputs, scales that float16 has."""
    if load_library() is None:
        return False
    if int8_rows and (not isinstance(weight, PackedInt4) or weight.group_size > MAX_INT8_GROUP):
        return False
    if isinstance(weight, PackedInt4):
        on_cpu = weight.nibbles.device.type == "cpu"
        return on_cpu and weight.group_size % LANES == 0 and torch.equal(weight.scales.half().float(), weight.scales)
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and weight.shape[1] % LANES == 0


def pack_int4(packed: PackedInt4) -> torch.Tensor:
    """The layout of int4.h: uint8 [panels, groups, 64 + 8 * group_size], aligned."""
    num_outputs, num_inputs = packed.shape
    groups, lines = num_inputs // packed.group_size, packed.group_size // 8
    padding = -num_outputs % LANES
    values = torch.nn.functional.pad(unpack_nibbles(packed.nibbles), (0, 0, 0, padding))
    words = torch.zeros(num_outputs + padding, groups, lines, dtype=torch.int32)
    for index, shift in enumerate(PAIR_SHIFTS):
        words |= values.view(len(words), groups, lines, 8)[..., index].to(torch.int32) << shift
    scales = torch.nn.functional.pad(packed.scales, (0, 0, 0, padding)).half()
    offsets = torch.nn.functional.pad(packed.zeros, (0, 0, 0, padding)).half() + 128
    coefficients = torch.stack([by_panel(scales), by_panel(offsets)], dim=2).flatten(2).view(torch.uint8)
    nibbles = by_panel(words.flatten(1)).view(-1, groups, lines * LANES).view(torch.uint8)
    return align(torch.cat([coefficients, nibbles], dim=2))


def pack_bfloat16(weight: torch.Tensor) -> torch.Tensor:
    """Pairs of neighbouring inputs, 16 outputs side by side: int32 [panels, K / 2, 16], aligned."""
    pairs = torch.nn.functional.pad(weight, (0, 0, 0, -len(weight) % LANES)).contiguous().view(torch.int32)
    return align(by_panel(pairs))


def by_panel(matrix: torch.Tensor) -> torch.Tensor:
    """[N, columns] to [N / 16, columns, 16]."""
    return matrix.view(-1, LANES, matrix.shape[1]).transpose(1, 2).contiguous()


def align(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor at an address that is a multiple of 64: a load never straddles two cache lines."""
    raw = tensor.contiguous().view(torch.uint8).flatten()
    memory = torch.empty(raw.numel() + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    memory[start : start + raw.numel()] = raw
    return memory[start : start + raw.numel()]


def address(tensor: torch.Tensor | None, length: int) -> int | None:
    """Where a float32 vector lies. Raises ValueError for any other tensor."""
    if tensor is None:
        return None
    if tensor.dtype != torch.float32 or tensor.shape != (length,) or not tensor.is_contiguous():
        raise ValueError(f"expected a contiguous float32 [{length}], not {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.data_ptr()
