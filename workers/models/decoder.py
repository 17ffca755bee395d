"""The decoder over paged KV: Llama's (Touvron et al. 2023) and what other families add to it (`families.py`).

The residual stream is float32; matrices are multiplied in the weights' dtype.
"""

from dataclasses import dataclass

import torch

from kernels.attention_inputs import AttentionShape
from kernels.decoder_layers import decoder_layers
from kernels.fusion import FusedLinear
from kernels.layer_weights import LayerWeights
from workers.engine.attention_metadata import AttentionMetadata
from workers.models.rope import rope_tables
from workers.models.spec import ModelSpec


@dataclass(frozen=True)
class DecoderWeights:
    """All weights. `embed_tokens` is [vocab, hidden]; `lm_head` normalises its rows first."""

    embed_tokens: torch.Tensor
    layers: tuple[LayerWeights, ...]
    lm_head: FusedLinear


class Decoder:
    """tokens -> hidden states -> logits, reading and writing KV blocks on the way."""

    def __init__(self, spec: ModelSpec, weights: DecoderWeights, max_len: int, *, strict: bool) -> None:
        """Make the model ready for sequences of `max_len` tokens, for which it holds tables.

        With `strict`, a token's bits do not depend on what is computed in the same step.
        """
        self.spec = spec
        self.weights = weights
        embed = weights.embed_tokens
        shape = AttentionShape(spec.num_heads, spec.num_kv_heads, spec.head_dim)
        rope = rope_tables(spec.rope, spec.head_dim, max_len, embed.device)
        self._layers = decoder_layers(shape, rope, weights.layers, embed.dtype, strict=strict)
        self.planner = self._layers.planner  # of the works that a step brings along; None where none are wanted

    def forward(self, token_ids: torch.Tensor, metadata: AttentionMetadata, kv_cache: torch.Tensor) -> torch.Tensor:
        """Logits of the rows that sample.

        Args:
            token_ids: int64 [tokens].
            metadata: where the tokens belong.
            kv_cache: [layers, 2, num_blocks, block_size, kv_heads, head_dim]; the tokens' K and V are written to it.

        Returns:
            float32 [len(metadata.sample_rows), vocab]; -inf for rows of the vocabulary that no token has.
        """
        hidden = self._layers(self.weights.embed_tokens[token_ids].float(), metadata.step, kv_cache)
        logits = self.weights.lm_head(hidden[metadata.sample_rows])
        if self.spec.num_tokens < self.spec.vocab_size:
            logits[:, self.spec.num_tokens :] = -torch.inf
        return logits
