"""Rotary embedding, KV store and paged attention on the CPU in C++; bits depend on absolute positions only."""

import ctypes

import torch

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.cpu_ops.library import load_library

MAX_HEAD_DIM = 256
MAX_GROUP = 96  # query heads of one KV head: TILE_ROWS in attention.cpp


class RopeStruct(ctypes.Structure):
    """`Rope` in rope.cpp."""

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
    """`Attention` in attention.cpp."""

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


class CpuAttentionStep:
    """One step's attention (`kernels.attention_step.AttentionStep`)."""

    def __init__(self, shape: AttentionShape, rope: RopeTables, step: StepTensors) -> None:
        library = load_library()
        if library is None:
            raise ValueError("the CPU operators are not there; ask cpu_attention_fits() first")
        self._store, self._attend = library.raydix_rope_store, library.raydix_attention
        self._held = (rope, step)  # the structs have only the addresses
        tokens, (sequences, width) = len(step.positions), step.block_tables.shape
        heads = (shape.num_heads, shape.num_kv_heads, shape.head_dim)
        self._rope = RopeStruct(
            rope.cos.data_ptr(),
            rope.sin.data_ptr(),
            step.positions.data_ptr(),
            step.slot_mapping.data_ptr(),
            tokens,
            *heads,
        )
        self._attention = AttentionStruct(
            step.block_tables.data_ptr(),
            step.query_starts.data_ptr(),
            step.context_lens.data_ptr(),
            sequences,
            width,
            shape.block_size,
            *heads,
            shape.head_dim**-0.5,
        )
        self._pointers = ctypes.addressof(self._rope), ctypes.addressof(self._attention)
        self._q = torch.empty(tokens, shape.num_heads * shape.head_dim, dtype=torch.bfloat16)
        self._out = torch.empty(tokens, shape.num_heads * shape.head_dim)

    def __call__(self, qkv: torch.Tensor, layer_cache: torch.Tensor, norms: HeadNorms, window: int) -> torch.Tensor:
        """Attend one layer: float32 qkv and result, bfloat16 cache."""
        k_cache, v_cache = layer_cache[0].data_ptr(), layer_cache[1].data_ptr()
        q, out, threads = self._q.data_ptr(), self._out.data_ptr(), torch.get_num_threads()
        rope, attention = self._pointers
        q_norm = None if norms.q is None else norms.q.data_ptr()
        k_norm = None if norms.k is None else norms.k.data_ptr()
        self._store(rope, q_norm, k_norm, norms.eps, qkv.data_ptr(), q, k_cache, v_cache, threads)
        self._attend(attention, q, k_cache, v_cache, out, window, threads)
        return self._out


def cpu_attention_fits(shape: AttentionShape, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the operators are there and take heads of this shape."""
    whole = shape.head_dim % 16 == 0 and shape.head_dim <= MAX_HEAD_DIM
    group = shape.num_heads // shape.num_kv_heads
    fits = whole and group <= MAX_GROUP and dtype == torch.bfloat16 and device.type == "cpu"
    return fits and load_library() is not None
