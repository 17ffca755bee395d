"""All layers of a decoder in one call to C++: between two operations there is a barrier, and no Python."""

import ctypes
from collections.abc import Sequence
from typing import TypeGuard

import torch

from kernels.attention_inputs import AttentionShape, RopeTables, StepTensors
from kernels.cpu_ops.attention import (
    HeadNormsStruct,
    attention_struct,
    cpu_attention_fits,
    head_norms_struct,
    rope_struct,
)
from kernels.cpu_ops.library import load_library
from kernels.cpu_ops.linear import CpuLinear, LinearStruct
from kernels.fusion import FusedLinear
from kernels.layer_weights import LayerWeights


class LayerStruct(ctypes.Structure):
    """`Layer` in ops.cpp."""

    _fields_ = (
        ("qkv_proj", LinearStruct),
        ("o_proj", LinearStruct),
        ("gate_up_proj", LinearStruct),
        ("down_proj", LinearStruct),
        ("norms", HeadNormsStruct),
        ("window", ctypes.c_int32),
    )


class BuffersStruct(ctypes.Structure):
    """`Buffers` in ops.cpp."""

    _fields_ = (
        ("hidden", ctypes.c_void_p),
        ("qkv", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("attended", ctypes.c_void_p),
        ("gate_up", ctypes.c_void_p),
        ("cache", ctypes.c_void_p),
        ("kv_size", ctypes.c_int64),
    )


class CpuLayers:
    """The layers of one model (`kernels.decoder_layers.DecoderLayers`); float32 hidden states, bfloat16 cache."""

    def __init__(self, shape: AttentionShape, rope: RopeTables, layers: Sequence[LayerWeights]) -> None:
        library = load_library()
        if library is None or not cpu_layers_fit(shape, layers, torch.bfloat16, rope.cos.device):
            raise ValueError("these layers cannot be run by the CPU operators; ask cpu_layers_fit() first")
        self._run = library.raydix_layers
        self._shape = shape
        self._rope = rope
        self._layers = layers  # held, for the structs have only the addresses
        self._structs = (LayerStruct * len(layers))(*[layer_struct(layer) for layer in layers])
        self._attended_size = shape.num_heads * shape.head_dim
        self._sizes = [linears_of(layers[0])[0].num_outputs, self._attended_size, linears_of(layers[0])[2].num_outputs]

    def __call__(self, hidden: torch.Tensor, step: StepTensors, kv_cache: torch.Tensor) -> torch.Tensor:
        self._check(hidden, step, kv_cache)
        rows = len(hidden)
        qkv, attended, gate_up = (torch.empty(rows, size) for size in self._sizes)
        q = torch.empty(rows, self._attended_size, dtype=torch.bfloat16)
        buffers = BuffersStruct(
            *(tensor.data_ptr() for tensor in (hidden, qkv, q, attended, gate_up, kv_cache)), kv_cache[0, 0].numel()
        )
        rope, attention = (
            rope_struct(self._shape, self._rope, step),
            attention_struct(self._shape, step, kv_cache.shape[3]),
        )
        structs = (ctypes.byref(struct) for struct in (rope, attention, buffers))
        self._run(self._structs, len(self._layers), *structs, torch.get_num_threads())
        return hidden

    def _check(self, hidden: torch.Tensor, step: StepTensors, kv_cache: torch.Tensor) -> None:
        """Raise ValueError for tensors that C++ would misread."""
        shape = self._shape
        rows = (len(step.positions), linears_of(self._layers[0])[0].num_inputs)
        if hidden.shape != rows or hidden.dtype != torch.float32 or not hidden.is_contiguous():
            raise ValueError(f"hidden must be contiguous float32 {rows}, not {hidden.dtype} {tuple(hidden.shape)}")
        heads = (shape.num_kv_heads, shape.head_dim)
        fits = kv_cache.shape[:2] == (len(self._layers), 2) and kv_cache.shape[4:] == heads
        if not fits or kv_cache.dtype != torch.bfloat16 or not kv_cache.is_contiguous():
            raise ValueError(
                f"the cache must be contiguous bfloat16 [{len(self._layers)}, 2, blocks, block_size, *{heads}], "
                f"not {kv_cache.dtype} {tuple(kv_cache.shape)}"
            )


def layer_struct(layer: LayerWeights) -> LayerStruct:
    linears = [linear.struct for linear in linears_of(layer)]
    return LayerStruct(*linears, head_norms_struct(layer.head_norms), layer.window)


def linears_of(layer: LayerWeights) -> list[CpuLinear]:
    """In the order of the structs. Raises ValueError where one is not in C++."""
    linears = [layer.qkv_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj]
    if not all_cpu(linears):
        raise ValueError("a layer has matrices that the CPU operators do not take")
    return linears


def all_cpu(linears: list[FusedLinear]) -> TypeGuard[list[CpuLinear]]:
    return all(isinstance(linear, CpuLinear) for linear in linears)


def cpu_layers_fit(
    shape: AttentionShape, layers: Sequence[LayerWeights], dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether the operators are there and take all of these layers."""
    matrices = [[layer.qkv_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj] for layer in layers]
    return cpu_attention_fits(shape, dtype, device) and all(all_cpu(linears) for linears in matrices)
