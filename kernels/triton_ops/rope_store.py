"""Between the q/k/v layer and attention: add up partial sums, normalise and rotate heads, write K and V to the cache.

A program takes some heads of one token and treats all alike; what is Q, K or V decides what of it is kept. No sum
runs over more than one head, so a token's bits do not depend on the batch.
"""

import torch
import triton
import triton.language as tl

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.triton_ops.partials import check_partials, load_sum

HEADS_PER_PROGRAM = 8


@triton.jit
def norm_halves(
    first: tl.tensor, second: tl.tensor, weight: tl.tensor, chosen: tl.tensor, columns: tl.tensor, mask: tl.tensor,
    eps: float, HALF: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """RMS-normalise the chosen heads [heads, 1], given as the halves of their rows."""
    squares = tl.sum(first * first + second * second, axis=1, keep_dims=True)
    scale = tl.rsqrt(squares / (2 * HALF) + eps)
    first_weight = tl.load(weight + columns, mask=mask, other=0.0)
    second_weight = tl.load(weight + HALF + columns, mask=mask, other=0.0)
    first = tl.where(chosen, first * scale * first_weight, first)
    second = tl.where(chosen, second * scale * second_weight, second)
    return first, second


@triton.jit
def load_half(
    partials: tl.tensor, bias: tl.tensor, num_tokens: int, token: tl.tensor, places: tl.tensor, mask: tl.tensor,
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """What the layer has made at `places` of one token's row, float32."""
    total = load_sum(partials, num_tokens, token, places, mask, WIDTH, SPLITS)
    if HAS_BIAS:
        total += tl.load(bias + places, mask=mask, other=0.0)
    return total


@triton.jit
def rotate_halves(
    first: tl.tensor, second: tl.tensor, cos: tl.tensor, sin: tl.tensor, angles: tl.tensor, mask: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Turn each pair (first[i], second[i]) by its angle, whose cosine and sine stand at `angles`."""
    cosine = tl.load(cos + angles, mask=mask, other=0.0)
    sine = tl.load(sin + angles, mask=mask, other=0.0)
    return first * cosine - second * sine, second * cosine + first * sine


@triton.jit(do_not_specialize=["num_tokens", "num_slots"])
def rope_store_kernel(
    partials: tl.tensor, bias: tl.tensor, q_norm: tl.tensor, k_norm: tl.tensor, cos: tl.tensor, sin: tl.tensor,
    positions: tl.tensor, slot_mapping: tl.tensor, out: tl.tensor, layer_cache: tl.tensor, eps: float, num_tokens: int,
    num_slots: int, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr,
    HEADS: tl.constexpr, SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_Q_NORM: tl.constexpr,
    HAS_K_NORM: tl.constexpr,
) -> None:  # fmt: skip
    """`HEADS` heads of one token, as tiles [HEADS, HALF_BLOCK] of the first and of the second halves of their rows."""
    FIRST_V: tl.constexpr = NUM_HEADS + NUM_KV_HEADS
    WIDTH: tl.constexpr = (FIRST_V + NUM_KV_HEADS) * 2 * HALF
    token = tl.program_id(0).to(tl.int64)
    heads = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    columns = tl.arange(0, HALF_BLOCK)[None, :]
    inside = columns < HALF
    mask = inside & (heads < FIRST_V + NUM_KV_HEADS)
    is_q, is_v = heads < NUM_HEADS, heads >= FIRST_V
    places = heads * (2 * HALF) + columns
    first = load_half(partials, bias, num_tokens, token, places, mask, WIDTH, SPLITS, HAS_BIAS)
    second = load_half(partials, bias, num_tokens, token, places + HALF, mask, WIDTH, SPLITS, HAS_BIAS)
    if HAS_Q_NORM:
        first, second = norm_halves(first, second, q_norm, is_q, columns, inside, eps, HALF)
    if HAS_K_NORM:
        first, second = norm_halves(
            first, second, k_norm, (heads >= NUM_HEADS) & (heads < FIRST_V), columns, inside, eps, HALF
        )
    angles = tl.load(positions + token) * HALF + columns
    turned_first, turned_second = rotate_halves(first, second, cos, sin, angles, inside)
    first = tl.where(is_v, first, turned_first).to(out.dtype.element_ty)
    second = tl.where(is_v, second, turned_second).to(out.dtype.element_ty)
    q_row = out + token * (NUM_HEADS * 2 * HALF) + places
    tl.store(q_row, first, mask=mask & is_q)
    tl.store(q_row + HALF, second, mask=mask & is_q)
    slot = tl.load(slot_mapping + token)
    kv_mask = mask & (heads >= NUM_HEADS) & (slot >= 0)
    kv_slot = tl.where(is_v, slot + num_slots, slot)
    kv_head = tl.where(is_v, heads - FIRST_V, heads - NUM_HEADS)
    kv_row = layer_cache + (kv_slot * NUM_KV_HEADS + kv_head) * (2 * HALF) + columns
    tl.store(kv_row, first, mask=kv_mask)
    tl.store(kv_row + HALF, second, mask=kv_mask)


def rope_store(
    partials: torch.Tensor,
    bias: torch.Tensor | None,
    norms: HeadNorms,
    rope: RopeTables,
    step: StepTensors,
    shape: AttentionShape,
    layer_cache: torch.Tensor,
) -> torch.Tensor:
    """Make one layer's Q, and put its K and V where they belong, in one launch and in float32 up to the cache's dtype.

    Args:
        partials: float32 [splits, tokens, (heads + 2 kv_heads) * head_dim].
        bias: float32 [(heads + 2 kv_heads) * head_dim].
        step: of its tensors `positions` and `slot_mapping`; a slot of -1 writes nothing (tokens that pad a batch).
        layer_cache: [2, num_blocks, block_size, kv_heads, head_dim], contiguous; written in place.

    Returns:
        Q, [tokens, heads, head_dim] in the cache's dtype.

    Raises:
        ValueError: shapes that do not fit each other, or a cache that is not contiguous.
    """
    _check(partials, rope, step, shape, layer_cache)
    splits, num_tokens, _ = partials.shape
    half, half_block = shape.head_dim // 2, triton.next_power_of_2(shape.head_dim // 2)
    out = torch.empty(num_tokens, shape.num_heads, shape.head_dim, dtype=layer_cache.dtype, device=layer_cache.device)
    grid = (num_tokens, triton.cdiv(shape.num_heads + 2 * shape.num_kv_heads, HEADS_PER_PROGRAM))
    rope_store_kernel[grid](
        partials, bias, norms.q, norms.k, rope.cos, rope.sin, step.positions, step.slot_mapping, out, layer_cache,
        norms.eps, num_tokens, layer_cache.shape[1] * layer_cache.shape[2],
        NUM_HEADS=shape.num_heads, NUM_KV_HEADS=shape.num_kv_heads, HALF=half,
        HALF_BLOCK=half_block, HEADS=HEADS_PER_PROGRAM, SPLITS=splits, HAS_BIAS=bias is not None,
        HAS_Q_NORM=norms.q is not None, HAS_K_NORM=norms.k is not None,
        num_warps=max(HEADS_PER_PROGRAM * half_block // 128, 1),  # 16 bytes a thread of each half
    )  # fmt: skip
    return out


def _check(
    partials: torch.Tensor, rope: RopeTables, step: StepTensors, shape: AttentionShape, layer_cache: torch.Tensor
) -> None:
    check_partials(partials, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim)
    if len(step.positions) != partials.shape[1] or len(step.slot_mapping) != partials.shape[1]:
        raise ValueError(f"a step of {len(step.positions)} tokens does not fit partials of {partials.shape[1]}")
    if layer_cache.shape[3:] != (shape.num_kv_heads, shape.head_dim) or not layer_cache.is_contiguous():
        raise ValueError(f"a cache of {tuple(layer_cache.shape)} does not fit {shape}, or is not contiguous")
    if rope.cos.shape[1] != shape.head_dim // 2 or not (rope.cos.is_contiguous() and rope.sin.is_contiguous()):
        raise ValueError(f"rotary tables of {tuple(rope.cos.shape)} do not fit heads of {shape.head_dim}")
