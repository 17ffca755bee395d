"""All layers of a decoder for one step: from embeddings to hidden states, reading and writing paged KV.

`ReferenceLayers` says what happens; `kernels.cpu_ops.layers.CpuLayers` does the same in one call to C++, and
`kernels.triton_ops.layers.TritonLayers` in some launches that wait for nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from kernels.attention_inputs import AttentionShape, RopeTables, StepTensors
from kernels.attention_step import attention_step
from kernels.cpu_ops.layers import CpuLayers, cpu_layers_fit
from kernels.layer_weights import LayerWeights

if TYPE_CHECKING:
    from kernels.triton_ops.attention_planner import AttentionPlanner


class DecoderLayers(Protocol):
    """The layers of one model."""

    @property
    def planner(self) -> "AttentionPlanner | None":
        """Makes the `works` that the layers want with every step; None where they want none."""

    def __call__(self, hidden: torch.Tensor, step: StepTensors, kv_cache: torch.Tensor) -> torch.Tensor:
        """Run a step.

        Args:
            hidden: float32 [tokens, hidden], the residual stream; overwritten.
            step: where the tokens belong.
            kv_cache: [layers, 2, num_blocks, block_size, kv_heads, head_dim]; the tokens' K and V are written to it.

        Returns:
            `hidden` after all layers.
        """


class ReferenceLayers:
    """Layer by layer, each operation by the fastest implementation there is for it."""

    planner = None

    def __init__(
        self, shape: AttentionShape, rope: RopeTables, layers: Sequence[LayerWeights], *, strict: bool
    ) -> None:
        self._shape = shape
        self._rope = rope
        self._layers = layers
        self._strict = strict

    def __call__(self, hidden: torch.Tensor, step: StepTensors, kv_cache: torch.Tensor) -> torch.Tensor:
        attend = attention_step(self._shape, self._rope, step, kv_cache.dtype, strict=self._strict)
        for layer, layer_cache in zip(self._layers, kv_cache, strict=True):
            attended = attend(layer.qkv_proj(hidden), layer_cache, layer.head_norms, layer.window)
            layer.o_proj(attended, hidden)
            layer.down_proj(layer.gate_up_proj(hidden), hidden)
        return hidden


def decoder_layers(
    shape: AttentionShape, rope: RopeTables, layers: Sequence[LayerWeights], dtype: torch.dtype, *, strict: bool
) -> DecoderLayers:
    """The fastest implementation for these weights and a KV cache of `dtype`, on the device they lie on."""
    if rope.cos.device.type == "cuda":
        from kernels.triton_ops.layers import TritonLayers, triton_layers_fit  # needs Triton, which a CPU has not

        if triton_layers_fit(shape, layers, dtype):
            return TritonLayers(shape, rope, layers, dtype, strict=strict)
    if cpu_layers_fit(shape, layers, dtype, rope.cos.device):
        return CpuLayers(shape, rope, layers)
    return ReferenceLayers(shape, rope, layers, strict=strict)
