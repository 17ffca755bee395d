"""What attention does in one step, layer after layer: rotate Q and K, write K and V to their slots, attend.

`TorchAttentionStep` is the reference; `kernels.cpu_ops.attention.CpuAttentionStep` does the same in C++.
"""

from typing import Protocol

import torch
import torch.nn.functional as F

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.cpu_ops.attention import CpuAttentionStep, cpu_attention_fits
from kernels.kv_store import write_kv
from kernels.paged_attention import paged_attention


class AttentionStep(Protocol):
    """One step's attention."""

    def __call__(self, qkv: torch.Tensor, layer_cache: torch.Tensor, norms: HeadNorms, window: int) -> torch.Tensor:
        """Attend one layer's tokens.

        Args:
            qkv: [tokens, (heads + 2 kv_heads) * head_dim].
            layer_cache: [2, num_blocks, block_size, kv_heads, head_dim]; the tokens' K and V are written to it.
            norms: of each head of Q and K, before they are rotated.
            window: keys that a query sees, itself included; 0 for all.

        Returns:
            float32 [tokens, heads * head_dim], valid until the next call.
        """


class TorchAttentionStep:
    """The reference, on any device and in any dtype; attention is computed in float32."""

    def __init__(self, shape: AttentionShape, rope: RopeTables, step: StepTensors, *, strict: bool) -> None:
        self._shape = shape
        self._rope = rope
        self._step = step
        self._strict = strict
        self._context_lens = step.context_lens.tolist()
        self._query_lens = step.query_starts.diff().tolist()

    def __call__(self, qkv: torch.Tensor, layer_cache: torch.Tensor, norms: HeadNorms, window: int) -> torch.Tensor:
        shape = self._shape
        heads = qkv.view(len(qkv), -1, shape.head_dim)
        q, k, v = torch.split(heads, [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
        q = self._place(q, norms.q, norms.eps).to(layer_cache.dtype)
        k = self._place(k, norms.k, norms.eps).to(layer_cache.dtype)
        write_kv(layer_cache, k, v.to(layer_cache.dtype), self._step.slot_mapping)
        tables = [
            table[: -(-length // layer_cache.shape[2])].long()
            for table, length in zip(self._step.block_tables, self._context_lens, strict=True)
        ]
        lengths = (self._query_lens, self._context_lens)
        attended = paged_attention(q, layer_cache, tables, *lengths, window=window, strict=self._strict)
        return attended.flatten(1).float()  # the linear operators take nothing else

    def _place(self, x: torch.Tensor, norm: torch.Tensor | None, eps: float) -> torch.Tensor:
        """Normalise and rotate the heads of Q or K."""
        normed = x if norm is None else F.rms_norm(x.float(), x.shape[-1:], norm, eps)
        return rotate(normed, self._rope, self._step.positions)


def rotate(x: torch.Tensor, rope: RopeTables, positions: torch.Tensor) -> torch.Tensor:
    """Rotate x [rows, heads, head_dim] by int64 positions [rows] of the tables, in float32: float32, shaped as x."""
    cos, sin = rope.cos[positions, None], rope.sin[positions, None]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention_step(
    shape: AttentionShape, rope: RopeTables, step: StepTensors, dtype: torch.dtype, *, strict: bool
) -> AttentionStep:
    """The fastest implementation for a KV cache of `dtype`, on the device of the step's tensors."""
    if cpu_attention_fits(shape, dtype, step.positions.device):
        return CpuAttentionStep(shape, rope, step)
    return TorchAttentionStep(shape, rope, step, strict=strict)
