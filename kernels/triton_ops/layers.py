"""All layers of a decoder in Triton: nine launches a layer, none of which waits for the host.

    rows = norm(hidden)                                          add_norm
    for each layer:
        q, and K and V to the cache = rotate(qkv_proj(rows))     int4_linear, rope_store
        attended = attention(q)                                  attend_segments, merge_segments, or attend_tiles
        hidden += o_proj(attended); rows = norm(hidden)          int4_linear, add_norm
        gated = silu(gate) * up                                  int4_gate_up
        hidden += down_proj(gated); rows = next norm(hidden)     int4_linear, add_norm

A linear layer leaves partial sums; the kernel behind it adds them in order on the way. The residual stream is float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kernels.attention_inputs import WORKSPACE_BYTES, AttentionShape, RopeTables, StepTensors
from kernels.layer_weights import LayerWeights
from kernels.triton_ops.add_norm import add_norm, add_partials
from kernels.triton_ops.attention_planner import AttentionPlanner
from kernels.triton_ops.attention_tiling import attention_tiling
from kernels.triton_ops.int4_linear import int4_gate_up
from kernels.triton_ops.int4_weight import TritonInt4Weight
from kernels.triton_ops.linear import TritonLinear
from kernels.triton_ops.paged_attention import AttentionWorkspace, TritonPagedAttention
from kernels.triton_ops.rope_store import rope_store
from kernels.triton_ops.silu_mul import silu_mul
from kernels.triton_ops.sum_partials import sum_partials

MAX_HEAD_DIM = 256


class TritonLayers:
    """The layers of one model (`kernels.decoder_layers.DecoderLayers`), in bfloat16 or float16.

    Args:
        dtype: of the KV cache, and of what the matrices multiply.
        strict: a token's bits must not depend on what is computed in the same step.

    Attributes:
        planner: makes the `works` that a step must bring along.

    Raises:
        ValueError: the layers do not fit; ask `triton_layers_fit` first.
    """

    def __init__(
        self,
        shape: AttentionShape,
        rope: RopeTables,
        layers: Sequence[LayerWeights],
        dtype: torch.dtype,
        *,
        strict: bool,
    ) -> None:
        if not triton_layers_fit(shape, layers, dtype):
            raise ValueError("these layers cannot be run by the Triton kernels; ask triton_layers_fit() first")
        self._shape = shape
        self._rope = rope
        self._layers = [(layer, linears_of(layer)) for layer in layers]
        self._dtype = dtype
        tiling = attention_tiling(shape.head_dim, strict=strict)
        num_rows = WORKSPACE_BYTES // (shape.num_kv_heads * (shape.head_dim + 2) * 4)
        self._attention = TritonPagedAttention(shape, tiling, AttentionWorkspace(shape, num_rows, rope.cos.device))
        self.planner = AttentionPlanner(shape, tiling, (layer.window for layer in layers), num_rows)

    def __call__(self, hidden: torch.Tensor, step: StepTensors, kv_cache: torch.Tensor) -> torch.Tensor:
        """Run a step that brings its `works` along."""
        rows = self._norm(hidden, None, self._layers[0][1].qkv_proj)
        following = [linears.qkv_proj for _, linears in self._layers[1:]]
        for (layer, linears), layer_cache, after in zip(self._layers, kv_cache, [*following, None], strict=True):
            qkv_proj, o_proj, gate_up_proj, down_proj = linears
            q = self._store(qkv_proj, rows, layer, step, layer_cache)
            attended = self._attention(q, layer_cache, step.block_tables, step.works[layer.window])
            rows = self._norm(hidden, (o_proj, attended), gate_up_proj)
            gated = gate(gate_up_proj, rows)
            if after is None:
                add_partials(hidden, down_proj.partials(gated), down_proj.fusion.bias)
            else:
                rows = self._norm(hidden, (down_proj, gated), after)
        return hidden

    def _store(
        self, qkv_proj: TritonLinear, rows: torch.Tensor, layer: LayerWeights, step: StepTensors, cache: torch.Tensor
    ) -> torch.Tensor:
        """Q of the rows [tokens, heads, head_dim], their K and V in the cache."""
        made, bias = qkv_proj.partials(rows), qkv_proj.fusion.bias
        return rope_store(made, bias, layer.head_norms, self._rope, step, self._shape, cache)

    def _norm(
        self, hidden: torch.Tensor, before: tuple[TritonLinear, torch.Tensor] | None, after: TritonLinear
    ) -> torch.Tensor:
        """Add to `hidden` what the linear layer `before` makes of its rows, and normalise for the layer `after`."""
        made = bias = None
        if before is not None:
            linear, rows = before
            made, bias = linear.partials(rows), linear.fusion.bias
        if after.fusion.norm_weight is None:
            raise ValueError("a layer's q/k/v and gate/up projections must normalise their rows first")
        return add_norm(hidden, made, bias, after.fusion.norm_weight, after.fusion.eps, self._dtype)


class TritonLinears(NamedTuple):
    """The four matrices of a layer."""

    qkv_proj: TritonLinear
    o_proj: TritonLinear
    gate_up_proj: TritonLinear
    down_proj: TritonLinear


def linears_of(layer: LayerWeights) -> TritonLinears:
    """Raises ValueError where one is not in Triton."""
    linears = [layer.qkv_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj]
    found = [linear for linear in linears if isinstance(linear, TritonLinear)]
    if len(found) < len(linears):
        raise ValueError("a layer has matrices that the Triton kernels do not take")
    return TritonLinears(*found)


def gate(gate_up_proj: TritonLinear, rows: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of rows [tokens, hidden]: [tokens, inner], fused with the product where it can be."""
    weight, bias = gate_up_proj.weight, gate_up_proj.fusion.bias
    if bias is None and isinstance(weight, TritonInt4Weight):
        return int4_gate_up(rows, weight)
    made = gate_up_proj.partials(rows)
    return silu_mul(made if bias is None else sum_partials(made, bias)[None], rows.dtype)


def triton_layers_fit(shape: AttentionShape, layers: Sequence[LayerWeights], dtype: torch.dtype) -> bool:
    """Whether the kernels take all of these layers, with a KV cache of `dtype`."""
    matrices = [
        matrix for layer in layers for matrix in (layer.qkv_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj)
    ]
    in_triton = all(isinstance(matrix, TritonLinear) and matrix.dtype == dtype for matrix in matrices)
    return in_triton and shape.head_dim <= MAX_HEAD_DIM and shape.head_dim % 2 == 0
