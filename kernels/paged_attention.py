"""Causal attention of a ragged batch over paged K and V: the torch reference that every other kernel is held against.

Paged attention: Kwon et al. 2023 (arXiv 2309.06180). Grouped-query attention: Ainslie et al. 2023 (arXiv 2305.13245).
Sliding window: Beltagy et al. 2020 (arXiv 2004.05150), as in Mistral: Jiang et al. 2023 (arXiv 2310.06825).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from kernels.strict_attention import attend_strict


def paged_attention(
    q: torch.Tensor,
    layer_cache: torch.Tensor,
    block_tables: Sequence[torch.Tensor],
    query_lens: Sequence[int],
    context_lens: Sequence[int],
    *,
    window: int = 0,
    strict: bool = False,
) -> torch.Tensor:
    """Attend each sequence's newest tokens to its context, themselves included.

    Args:
        q: [tokens, heads, head_dim], the sequences' new tokens one after another.
        layer_cache: [2, num_blocks, block_size, kv_heads, head_dim], the new tokens' K and V already written.
        block_tables: per sequence, int64 [blocks], the blocks that hold its context in order.
        query_lens: per sequence, how many of the tokens are its own; they sum to `tokens`.
        context_lens: per sequence, tokens in its context, the new ones included.
        window: how many positions a token sees, its own included; 0 for all before it.
        strict: make a token's bits independent of its chunk and batch (`kernels.strict_attention`).

    Returns:
        [tokens, heads, head_dim] in the dtype of q. Position p sees positions 0 to p of its own sequence only, and with
        a window p - window + 1 to p.
    """
    attend = attend_strict if strict else attend_one
    outputs = [
        attend(part, gather_context(layer_cache, table, context_len), window)
        for part, table, context_len in zip(torch.split(q, list(query_lens)), block_tables, context_lens, strict=True)
    ]
    return torch.cat(outputs)


def gather_context(layer_cache: torch.Tensor, block_table: torch.Tensor, context_len: int) -> torch.Tensor:
    """K and V of one sequence, contiguous: [2, context_len, kv_heads, head_dim]."""
    return layer_cache.index_select(1, block_table).flatten(1, 2)[:, :context_len]


def attend_one(q: torch.Tensor, kv: torch.Tensor, window: int = 0) -> torch.Tensor:
    """Attend q [new, heads, head_dim], the last tokens of a context, to kv [2, context, kv_heads, head_dim].

    Computed in float32, so that a different split of the same context (another chunk, another batch) changes the result
    by rounding errors of float32 and not of bfloat16.
    """
    k, v = kv.float().transpose(1, 2)
    mask = attention_mask(q.shape[0], k.shape[1], window, q.device)
    out = F.scaled_dot_product_attention(
        q.float().transpose(0, 1)[None], k[None], v[None], attn_mask=mask, enable_gqa=True
    )
    return out[0].transpose(0, 1).to(q.dtype)


def attention_mask(new: int, context_len: int, window: int, device: torch.device) -> torch.Tensor | None:
    """bool [new, context], True where a token may look; None for a single token that sees everything."""
    if new == 1 and not 0 < window < context_len:
        return None
    mask = torch.ones(new, context_len, dtype=torch.bool, device=device).tril(context_len - new)
    return mask.triu(context_len - new - window + 1) if window else mask
