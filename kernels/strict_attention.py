"""Attention of one sequence whose bits depend on absolute positions only, not on the chunk or batch it is computed in.

Keys are cut into segments of fixed size at absolute positions and query rows into tiles of fixed size; each product
then has the same inner dimension and order of summation whatever else is computed with it, and the segments' sums are
added in order. A key beyond a row's position, or before its window, contributes an exact zero. After Thinking Machines'
batch-invariant attention (a fixed size of the split, not a fixed count).
"""

import torch
import torch.nn.functional as F

SEGMENT = 256  # keys per partial sum
TILE = 16  # query rows are padded to a multiple: with fewer, the BLAS takes other kernels
CHUNK_ROWS = 512  # query rows at once; bounds the score matrix, not the result


def attend_strict(q: torch.Tensor, kv: torch.Tensor, window: int = 0) -> torch.Tensor:
    """Attend q [new, heads, head_dim], the last tokens of a context, to kv [2, context, kv_heads, head_dim].

    With a window, a token sees so many positions, its own included; 0 for all before it.
    Returns [new, heads, head_dim] in the dtype of q, computed in float32.
    """
    new, num_heads, _ = q.shape
    first = kv.shape[1] - new
    step = max(1, CHUNK_ROWS * kv.shape[2] // num_heads)
    chunks = [
        attend_chunk(q[begin : begin + step], first + begin, kv[:, : first + begin + step], window)
        for begin in range(0, new, step)
    ]
    return torch.cat(chunks).to(q.dtype)


def attend_chunk(q: torch.Tensor, first: int, kv: torch.Tensor, window: int) -> torch.Tensor:
    """The same for tokens at positions `first` on; float32 [new, heads, head_dim]."""
    new, num_heads, head_dim = q.shape
    num_kv_heads = kv.shape[2]
    group = num_heads // num_kv_heads
    k, v = pad_keys(kv).permute(0, 2, 1, 3)
    rows = q.float().view(new, num_kv_heads, group, head_dim).transpose(0, 1).flatten(1, 2)
    rows = F.pad(rows, (0, 0, 0, -rows.shape[1] % TILE)) * head_dim**-0.5
    scores = rows @ k.transpose(1, 2)
    positions = first + torch.arange(rows.shape[1], device=q.device) // group
    scores.masked_fill_(hidden_keys(positions, k.shape[1], window), float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True)).exp_().unflatten(-1, (-1, SEGMENT))
    partial = weights.transpose(1, 2) @ v.unflatten(1, (-1, SEGMENT))
    out = add_in_order(partial.unbind(1)) / add_in_order(weights.sum(-1).unbind(-1))[..., None]
    return out[:, : new * group].reshape(num_kv_heads, new, group, head_dim).transpose(0, 1).flatten(1, 2)


def hidden_keys(positions: torch.Tensor, num_keys: int, window: int) -> torch.Tensor:
    """bool [rows, num_keys], True where a row at one of `positions` (int64 [rows]) may not look.

    A padding row may be left with nothing to see; it turns NaN and is cut off.
    """
    keys = torch.arange(num_keys, device=positions.device)
    hidden = keys > positions[:, None]
    return hidden | (keys <= positions[:, None] - window) if window else hidden


def pad_keys(kv: torch.Tensor) -> torch.Tensor:
    """kv in float32, its context padded with zeros to whole segments."""
    return F.pad(kv.float(), (0, 0, 0, 0, 0, -kv.shape[1] % SEGMENT))


def add_in_order(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Sum from left to right; torch.sum may choose another order for another number of parts."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
