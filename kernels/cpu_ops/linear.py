"""y = f(x) W^T on the CPU in C++: packed int4 or bfloat16 W, normalisation or gate fused in front, the sum behind.

A row's bits do not depend on the rows it is computed with.
"""

import ctypes

import torch

from kernels.cpu_ops.loader import load_library
from kernels.cpu_ops.packing import LANES, pack_bfloat16, pack_int4
from kernels.fusion import Fusion, Prologue
from kernels.int4 import PackedInt4

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
        self._data = pack_int4(library, weight) if isinstance(weight, PackedInt4) else pack_bfloat16(library, weight)
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


def address(tensor: torch.Tensor | None, length: int) -> int | None:
    """Where a float32 vector lies. Raises ValueError for any other tensor."""
    if tensor is None:
        return None
    if tensor.dtype != torch.float32 or tensor.shape != (length,) or not tensor.is_contiguous():
        raise ValueError(f"expected a contiguous float32 [{length}], not {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.data_ptr()
