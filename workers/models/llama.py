"""The Llama decoder (Touvron et al. 2023) over paged KV."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.kv_store import write_kv
from kernels.paged_attention import paged_attention
from workers.engine.attention_metadata import AttentionMetadata
from workers.models.layers import Head, Linear, RMSNorm, RotaryEmbedding
from workers.models.spec import ModelSpec


@dataclass(frozen=True)
class LlamaLayerWeights:
    """One block's weights, q/k/v and gate/up packed into one matrix each."""

    input_norm: RMSNorm
    qkv_proj: Linear
    o_proj: Linear
    post_attention_norm: RMSNorm
    gate_up_proj: Linear
    down_proj: Linear


@dataclass(frozen=True)
class LlamaWeights:
    """All weights. `embed_tokens` is [vocab, hidden]."""

    embed_tokens: torch.Tensor
    layers: tuple[LlamaLayerWeights, ...]
    norm: RMSNorm
    lm_head: Head


class LlamaModel:
    """tokens -> hidden states -> logits, reading and writing KV blocks on the way."""

    def __init__(self, spec: ModelSpec, weights: LlamaWeights, *, strict: bool) -> None:
        """With `strict`, a token's bits do not depend on what is computed in the same step."""
        self.spec = spec
        self._strict = strict
        self.weights = weights
        self._rotary = RotaryEmbedding(spec.head_dim, spec.max_model_len, spec.rope_theta, weights.embed_tokens.device)

    def forward(self, token_ids: torch.Tensor, metadata: AttentionMetadata, kv_cache: torch.Tensor) -> torch.Tensor:
        """Logits of the rows that sample.

        Args:
            token_ids: int64 [tokens].
            metadata: where the tokens belong.
            kv_cache: [layers, 2, num_blocks, block_size, kv_heads, head_dim]; the tokens' K and V are written to it.

        Returns:
            float32 [len(metadata.sample_rows), vocab].
        """
        hidden = self.weights.embed_tokens[token_ids].float()
        for layer, layer_cache in zip(self.weights.layers, kv_cache, strict=True):
            hidden = hidden + self._attention(layer, layer.input_norm(hidden), metadata, layer_cache)
            hidden = hidden + self._mlp(layer, layer.post_attention_norm(hidden))
        return self.weights.lm_head(self.weights.norm(hidden[metadata.sample_rows]))

    def _attention(
        self, layer: LlamaLayerWeights, x: torch.Tensor, metadata: AttentionMetadata, layer_cache: torch.Tensor
    ) -> torch.Tensor:
        spec = self.spec
        heads = layer.qkv_proj(x).view(len(x), -1, spec.head_dim)
        q, k, v = torch.split(heads, [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], dim=1)
        q, k = self._rotary(q, metadata.positions), self._rotary(k, metadata.positions)
        write_kv(layer_cache, k, v, metadata.slot_mapping)
        out = paged_attention(
            q,
            layer_cache,
            metadata.block_tables,
            metadata.query_lens,
            metadata.context_lens,
            strict=self._strict,
        )
        return layer.o_proj(out.flatten(1))

    def _mlp(self, layer: LlamaLayerWeights, x: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_up_proj(x).float().chunk(2, dim=-1)
        return layer.down_proj(F.silu(gate) * up)
