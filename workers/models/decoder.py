"""The decoder over paged KV: Llama's (Touvron et al. 2023) and what other families add to it (`families.py`).

The residual stream is float32; matrices are multiplied in the weights' dtype.
"""

from dataclasses import dataclass

import torch

from kernels.attention_inputs import AttentionShape, HeadNorms
from kernels.attention_step import attention_step
from kernels.linear import FusedLinear
from workers.engine.attention_metadata import AttentionMetadata
from workers.models.rope import rope_tables
from workers.models.spec import ModelSpec


@dataclass(frozen=True)
class LayerWeights:
    """One block's matrices, q/k/v and gate/up packed into one each, with what stands around them fused in.

    Attributes:
        qkv_proj: normalises its rows first.
        head_norms: of each head of q and k, in families that have them.
        o_proj: adds to the residual stream.
        gate_up_proj: normalises its rows first.
        down_proj: takes gate and up to silu(gate) * up, and adds to the residual stream.
    """

    qkv_proj: FusedLinear
    head_norms: HeadNorms
    o_proj: FusedLinear
    gate_up_proj: FusedLinear
    down_proj: FusedLinear


@dataclass(frozen=True)
class DecoderWeights:
    """All weights. `embed_tokens` is [vocab, hidden]; `lm_head` normalises its rows first."""

    embed_tokens: torch.Tensor
    layers: tuple[LayerWeights, ...]
    lm_head: FusedLinear


class Decoder:
    """tokens -> hidden states -> logits, reading and writing KV blocks on the way."""

    def __init__(self, spec: ModelSpec, weights: DecoderWeights, *, strict: bool) -> None:
        """With `strict`, a token's bits do not depend on what is computed in the same step."""
        self.spec = spec
        self.weights = weights
        self._strict = strict
        self._rope = rope_tables(spec.rope, spec.head_dim, spec.max_model_len, weights.embed_tokens.device)

    def forward(self, token_ids: torch.Tensor, metadata: AttentionMetadata, kv_cache: torch.Tensor) -> torch.Tensor:
        """Logits of the rows that sample.

        Args:
            token_ids: int64 [tokens].
            metadata: where the tokens belong.
            kv_cache: [layers, 2, num_blocks, block_size, kv_heads, head_dim]; the tokens' K and V are written to it.

        Returns:
            float32 [len(metadata.sample_rows), vocab].
        """
        spec = self.spec
        shape = AttentionShape(spec.num_heads, spec.num_kv_heads, spec.head_dim, block_size=kv_cache.shape[3])
        attend = attention_step(shape, self._rope, metadata.step, kv_cache.dtype, strict=self._strict)
        hidden = self.weights.embed_tokens[token_ids].float()
        for layer, layer_cache, window in zip(self.weights.layers, kv_cache, spec.traits.windows, strict=True):
            layer.o_proj(attend(layer.qkv_proj(hidden), layer_cache, layer.head_norms, window), hidden)
            layer.down_proj(layer.gate_up_proj(hidden), hidden)
        return self.weights.lm_head(hidden[metadata.sample_rows])
