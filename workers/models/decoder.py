"""The decoder over paged KV: Llama's (Touvron et al. 2023) and what other families add to it (`families.py`)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.kv_store import write_kv
from kernels.paged_attention import paged_attention
from workers.engine.attention_metadata import AttentionMetadata
from workers.models.layers import Head, Linear, RMSNorm
from workers.models.rope import rope_tables, rotate
from workers.models.spec import ModelSpec


@dataclass(frozen=True)
class LayerWeights:
    """One block's weights, q/k/v and gate/up packed into one matrix each.

    `q_norm` and `k_norm` are over head_dim, the same for all heads; None in families without them.
    """

    input_norm: RMSNorm
    qkv_proj: Linear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    o_proj: Linear
    post_attention_norm: RMSNorm
    gate_up_proj: Linear
    down_proj: Linear


@dataclass(frozen=True)
class DecoderWeights:
    """All weights. `embed_tokens` is [vocab, hidden]."""

    embed_tokens: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: RMSNorm
    lm_head: Head


class Decoder:
    """tokens -> hidden states -> logits, reading and writing KV blocks on the way.

    `cos` and `sin` are float32 [max_model_len, head_dim / 2].
    """

    def __init__(self, spec: ModelSpec, weights: DecoderWeights, *, strict: bool) -> None:
        """With `strict`, a token's bits do not depend on what is computed in the same step."""
        self.spec = spec
        self._strict = strict
        self.weights = weights
        self.cos, self.sin = rope_tables(spec.rope, spec.head_dim, spec.max_model_len, weights.embed_tokens.device)

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
        layers = zip(self.weights.layers, kv_cache, self.spec.traits.windows, strict=True)
        for layer, layer_cache, window in layers:
            hidden = hidden + self._attention(layer, layer.input_norm(hidden), metadata, layer_cache, window)
            hidden = hidden + self._mlp(layer, layer.post_attention_norm(hidden))
        return self.weights.lm_head(self.weights.norm(hidden[metadata.sample_rows]))

    def _attention(
        self,
        layer: LayerWeights,
        x: torch.Tensor,
        metadata: AttentionMetadata,
        layer_cache: torch.Tensor,
        window: int,
    ) -> torch.Tensor:
        spec = self.spec
        heads = layer.qkv_proj(x).view(len(x), -1, spec.head_dim)
        q, k, v = torch.split(heads, [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], dim=1)
        q = self._place(q, layer.q_norm, metadata.positions)
        write_kv(layer_cache, self._place(k, layer.k_norm, metadata.positions), v, metadata.slot_mapping)
        out = paged_attention(
            q,
            layer_cache,
            metadata.block_tables,
            metadata.query_lens,
            metadata.context_lens,
            window=window,
            strict=self._strict,
        )
        return layer.o_proj(out.flatten(1))

    def _place(self, x: torch.Tensor, norm: RMSNorm | None, positions: torch.Tensor) -> torch.Tensor:
        """Normalise and rotate q or k, [tokens, heads, head_dim], in float32; returned in the dtype of x."""
        normed = x if norm is None else norm(x.float())
        return rotate(normed, self.cos, self.sin, positions).to(x.dtype)

    def _mlp(self, layer: LayerWeights, x: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_up_proj(x).float().chunk(2, dim=-1)
        return layer.down_proj(F.silu(gate) * up)
