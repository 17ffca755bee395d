"""Rotary embedding, KV store and paged attention on the CPU in C++; bits depend on absolute positions only."""

import ctypes

import torch

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.cpu_ops.linear import address
from kernels.cpu_ops.loader import load_library

MAX_HEAD_DIM = 256
MAX_GROUP = 96  # query heads of one KV head: TILE_ROWS in attention.h


class RopeStruct(ctypes.Structure):
    """`Rope` in rope.h."""

    _fields_ = (
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("num_tokens", ctypes.c_int32),
        ("num_heads", ctypes.c_int32),
        ("num_kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
    )


class AttentionStruct(ctypes.Structure):
    """`Attention` in attention.h."""

    _fields_ = (
        ("block_tables", ctypes.c_void_p),
        ("query_starts", ctypes.c_void_p),
        ("context_lens", ctypes.c_void_p),
        ("num_sequences", ctypes.c_int32),
        ("table_width", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("num_heads", ctypes.c_int32),
        ("num_kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class HeadNormsStruct(ctypes.Structure):
    """`HeadNorms` in rope.h."""

    _fields_ = (("q", ctypes.c_void_p), ("k", ctypes.c_void_p), ("eps", ctypes.c_float))


class CpuAttentionStep:
    """One step's attention (`kernels.attention_step.AttentionStep`)."""

    def __init__(self, shape: AttentionShape, rope: RopeTables, step: StepTensors) -> None:
        """Raises ValueError for tensors that C++ would misread; what is in them is not looked at."""
        library = load_library()
        if library is None:
            raise ValueError("the CPU operators are not there; ask cpu_attention_fits() first")
        check_rope(rope, shape)
        check_step(step)
        self._run = library.raydix_attention
        self._tables = rope  # held, for the struct has only the addresses
        self._rope = rope_struct(shape, rope, step)
        self._shape = shape
        self._step = step
        self._q = torch.empty(len(step.positions), shape.num_heads * shape.head_dim, dtype=torch.bfloat16)

    def __call__(self, qkv: torch.Tensor, layer_cache: torch.Tensor, norms: HeadNorms, window: int) -> torch.Tensor:
        """Attend one layer: float32 qkv and result, bfloat16 cache."""
        heads = self._shape.num_heads + 2 * self._shape.num_kv_heads
        check_tensor("qkv", qkv, torch.float32, (len(self._q), heads * self._shape.head_dim))
        blocks = (2, *layer_cache.shape[1:3], self._shape.num_kv_heads, self._shape.head_dim)
        check_tensor("the cache", layer_cache, torch.bfloat16, blocks)
        out = torch.empty(self._q.shape)
        tensors = (qkv, self._q, layer_cache[0], layer_cache[1], out)
        attention = attention_struct(self._shape, self._step, layer_cache.shape[2])
        structs = (
            ctypes.byref(struct) for struct in (self._rope, attention, head_norms_struct(norms, self._shape.head_dim))
        )
        self._run(*structs, *(tensor.data_ptr() for tensor in tensors), window, torch.get_num_threads())
        return out


def rope_struct(shape: AttentionShape, rope: RopeTables, step: StepTensors) -> RopeStruct:
    tensors = (rope.cos, rope.sin, step.positions, step.slot_mapping)
    heads = (shape.num_heads, shape.num_kv_heads, shape.head_dim)
    return RopeStruct(*(tensor.data_ptr() for tensor in tensors), len(step.positions), *heads)


def attention_struct(shape: AttentionShape, step: StepTensors, block_size: int) -> AttentionStruct:
    return AttentionStruct(
        step.block_tables.data_ptr(),
        step.query_starts.data_ptr(),
        step.context_lens.data_ptr(),
        *step.block_tables.shape,
        block_size,
        shape.num_heads,
        shape.num_kv_heads,
        shape.head_dim,
        shape.head_dim**-0.5,
    )


def head_norms_struct(norms: HeadNorms, head_dim: int) -> HeadNormsStruct:
    """Raises ValueError for norms of another size."""
    return HeadNormsStruct(address(norms.q, head_dim), address(norms.k, head_dim), norms.eps)


def check_rope(rope: RopeTables, shape: AttentionShape) -> None:
    """Raise ValueError for tables that C++ would misread."""
    for name, table in zip(("cos", "sin"), rope, strict=True):
        check_tensor(name, table, torch.float32, (len(rope.cos), shape.head_dim // 2))


def check_step(step: StepTensors) -> None:
    """Raise ValueError for tensors that C++ would misread; that what is in them lies within bounds is not checked."""
    tokens, tables = (len(step.positions),), step.block_tables.shape
    check_tensor("positions", step.positions, torch.int64, tokens)
    check_tensor("slot_mapping", step.slot_mapping, torch.int64, tokens)
    check_tensor("block_tables", step.block_tables, torch.int32, (tables[0], tables[-1]))
    check_tensor("query_starts", step.query_starts, torch.int32, (tables[0] + 1,))
    check_tensor("context_lens", step.context_lens, torch.int32, (tables[0],))


def check_tensor(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a tensor lies on the CPU as it is said to."""
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous() or not tensor.is_cpu:
        found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        raise ValueError(f"{name} must be contiguous {dtype} {shape} on the CPU, not {found}")


def cpu_attention_fits(shape: AttentionShape, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the operators are there and take heads of this shape."""
    whole = shape.head_dim % 16 == 0 and shape.head_dim <= MAX_HEAD_DIM
    group = shape.num_heads // shape.num_kv_heads
    fits = whole and group <= MAX_GROUP and dtype == torch.bfloat16 and device.type == "cpu"
    return fits and load_library() is not None
