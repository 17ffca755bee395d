"""All layers of a decoder in one call to C++: between two operations there is a barrier, and no Python."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import torch

from kernels.attention_inputs import AttentionShape, RopeTables, StepTensors
from kernels.cpu_ops.attention import (
    HeadNormsStruct,
    attention_struct,
    check_rope,
    check_step,
    check_tensor,
    cpu_attention_fits,
    head_norms_struct,
    rope_struct,
)
from kernels.cpu_ops.linear import CpuLinear, LinearStruct
from kernels.cpu_ops.loader import load_library
from kernels.fusion import FusedLinear, Prologue
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


class LayerSizes(NamedTuple):
    """How long the rows are that pass through a layer."""

    hidden: int
    qkv: int
    attended: int
    gate_up: int

    @classmethod
    def of(cls, shape: AttentionShape, layer: LayerWeights) -> "LayerSizes":
        """What heads of `shape` and the layer's gate want."""
        _, o_proj, gate_up_proj, _ = linears_of(layer)
        qkv = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        return cls(o_proj.num_outputs, qkv, shape.num_heads * shape.head_dim, gate_up_proj.num_outputs)

    def fit(self, layer: LayerWeights) -> bool:
        """Whether the layer's matrices take and give such rows."""
        gated = [linear.struct.prologue == Prologue.SILU_MUL for linear in linears_of(layer)]
        sizes = [(linear.num_inputs, linear.num_outputs) for linear in linears_of(layer)]
        wanted = [
            (self.hidden, self.qkv),
            (self.attended, self.hidden),
            (self.hidden, self.gate_up),
            (self.gate_up // 2, self.hidden),
        ]
        return sizes == wanted and gated == [False, False, False, True]


class CpuLayers:
    """The layers of one model (`kernels.decoder_layers.DecoderLayers`); float32 hidden states, bfloat16 cache."""

    planner = None

    def __init__(self, shape: AttentionShape, rope: RopeTables, layers: Sequence[LayerWeights]) -> None:
        """Raises ValueError for layers that do not fit each other, and tables that C++ would misread."""
        library = load_library()
        if library is None or not cpu_layers_fit(shape, layers, torch.bfloat16, rope.cos.device):
            raise ValueError("these layers cannot be run by the CPU operators; ask cpu_layers_fit() first")
        self._run = library.raydix_layers
        self._shape = shape
        self._rope = rope
        self._layers = layers  # held, for the structs have only the addresses
        self._structs = (LayerStruct * len(layers))(*[layer_struct(layer, shape.head_dim) for layer in layers])
        self._sizes = LayerSizes.of(shape, layers[0])
        check_rope(rope, shape)
        for index, layer in enumerate(layers):
            if not self._sizes.fit(layer):
                raise ValueError(f"the matrices of layer {index} do not fit rows of {self._sizes}")

    def __call__(self, hidden: torch.Tensor, step: StepTensors, kv_cache: torch.Tensor) -> torch.Tensor:
        self._check(hidden, step, kv_cache)
        rows, sizes = len(hidden), self._sizes
        qkv, attended, gate_up = (torch.empty(rows, size) for size in (sizes.qkv, sizes.attended, sizes.gate_up))
        q = torch.empty(rows, sizes.attended, dtype=torch.bfloat16)
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
        check_step(step)
        check_tensor("hidden", hidden, torch.float32, (len(step.positions), self._sizes.hidden))
        heads = (self._shape.num_kv_heads, self._shape.head_dim)
        check_tensor("the cache", kv_cache, torch.bfloat16, (len(self._layers), 2, *kv_cache.shape[2:4], *heads))


def layer_struct(layer: LayerWeights, head_dim: int) -> LayerStruct:
    linears = [linear.struct for linear in linears_of(layer)]
    return LayerStruct(*linears, head_norms_struct(layer.head_norms, head_dim), layer.window)


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
