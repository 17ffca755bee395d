"""Next tokens of a batch in one launch and without sorting: `kernels.sampling` says what is drawn.

One program per row, which reads it block by block: once for the likeliest token, once to add up the weights of what is
kept, and then only the block in which the draw falls. Where top_k or top_p is on it looks for the last token that is
kept, by bisection: it reads the row one to twelve times more each, until it knows of all but a block's worth of tokens
whether they are kept; those it copies out. For that tokens have numbers of 64 bits: the logit's bits in an
order-preserving form, then the complement of the id. No two are equal, so ties need no care: the higher a token's
number, the earlier it is kept.

Weights are float32 exponentials, off by 2^-22 and 2^-23 times the exponent, of themselves: where a probability is large
enough to matter that is some 1e-7. They are added up in float64. What is added in which order depends on the size of
the vocabulary only, so a row's draw does not depend on the batch.
"""

import torch
import triton
import triton.language as tl

from kernels import sampling
from kernels.sampling import SamplingTensors

MAX_BLOCK = 4096
PARAM_DTYPES = (torch.float32, torch.int32, torch.float32, torch.float32, torch.int64, torch.int64)
# The multipliers of SplitMix64, where the kernel can see them.
GOLDEN = tl.constexpr(sampling.GOLDEN)
COUNTER_STEP = tl.constexpr(sampling.COUNTER_STEP)
START = tl.constexpr(sampling.START)
FIRST_MIX = tl.constexpr(sampling.FIRST_MIX)
SECOND_MIX = tl.constexpr(sampling.SECOND_MIX)
LOG2_E = tl.constexpr(1.4426950408889634)
STAGES = tl.constexpr(4)  # blocks of a row that are on their way at a time
PROBE = tl.constexpr(24.0)  # where the search begins: at a weight of 2^-24
LAST_ID = tl.constexpr(0x7FFFFFFF)
MINUS_INFINITY = tl.constexpr(-(0x7F800000 << 31))  # the lowest number of a logit, whatever the id


@triton.jit
def uniform(seed: tl.tensor, position: tl.tensor) -> tl.tensor:
    """float64 in [0, 1), bit for bit `kernels.sampling.uniform`."""
    z = seed.to(tl.uint64, bitcast=True) * GOLDEN + position.to(tl.uint64, bitcast=True) * COUNTER_STEP + START
    z = (z ^ (z >> 30)) * FIRST_MIX
    z = (z ^ (z >> 27)) * SECOND_MIX
    z = z ^ (z >> 31)
    return (z >> 11).to(tl.int64).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit
def number_of(logit: tl.tensor, token: tl.tensor) -> tl.tensor:
    """A token's number, int64: in the order of the logits, both zeros as one, then in falling order of the ids."""
    bits = logit.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (order.to(tl.int64) << 31) + (LAST_ID - token)


@triton.jit
def token_of(number: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The inverse of `number_of`: a logit, float32, and an id, int32. Not every number is some token's."""
    order = (number >> 31).to(tl.int32)
    size = tl.abs(order).to(tl.float32, bitcast=True)
    return tl.where(order < 0, -size, size), LAST_ID - (number & LAST_ID).to(tl.int32)


@triton.jit
def likeliest(row: tl.tensor, VOCAB: tl.constexpr, BLOCK: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The highest logit of a row and the lowest token that has it, int32."""
    places = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    best_starts = tl.zeros((BLOCK,), tl.int32)
    for start in tl.range(0, VOCAB, BLOCK, num_stages=STAGES):
        logits = tl.load(row + start + places, mask=places < VOCAB - start, other=float("-inf"))
        best_starts = tl.where(logits > best, start, best_starts)
        best = tl.maximum(best, logits)
    highest = tl.max(best)
    return highest, tl.min(tl.where(best == highest, best_starts + places, VOCAB))


@triton.jit
def kept_block(
    row: tl.tensor, start: int, cut: tl.tensor, VOCAB: tl.constexpr, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """One block's logits, and which of its tokens have a number not below `cut`, which is above `MINUS_INFINITY`."""
    places = tl.arange(0, BLOCK)  # and not ids: those would be carried from stage to stage of the pipeline
    logits = tl.load(row + start + places, mask=places < VOCAB - start, other=float("-inf"))
    cut_logit, cut_id = token_of(cut)
    return logits, (logits > cut_logit) | ((logits == cut_logit) & (places <= cut_id - start))


@triton.jit
def weights_of(logits: tl.tensor, kept: tl.tensor, highest: tl.tensor, scale: tl.tensor) -> tl.tensor:
    """float64, in proportion to the probabilities, 1 for the likeliest token; 0 where a token is not kept."""
    return tl.where(kept, tl.exp2((logits - highest) * scale), 0.0).to(tl.float64)


@triton.jit
def measure(
    row: tl.tensor, cut: tl.tensor, highest: tl.tensor, scale: tl.tensor, VOCAB: tl.constexpr, BLOCK: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """How many tokens a cut keeps, int32, and as float64 their weight; or again their number."""
    count = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float64)
    for start in tl.range(0, VOCAB, BLOCK, num_stages=STAGES):
        logits, kept = kept_block(row, start, cut, VOCAB, BLOCK)
        count += kept.to(tl.int32)
        if BY_WEIGHT:
            mass += weights_of(logits, kept, highest, scale)
    num_kept = tl.sum(count)
    return num_kept, tl.sum(mass) if BY_WEIGHT else num_kept.to(tl.float64)


@triton.jit
def copy_between(
    row: tl.tensor, cut: tl.tensor, above: tl.tensor, scratch: tl.tensor, VOCAB: tl.constexpr, BLOCK: tl.constexpr
) -> tl.tensor:
    """The numbers, int64 [BLOCK], of the tokens that `cut` keeps and `above` does not, no more than that."""
    copied = tl.full((), 0, tl.int32)
    for start in tl.range(0, VOCAB, BLOCK, num_stages=STAGES):
        logits, kept = kept_block(row, start, cut, VOCAB, BLOCK)
        numbers = number_of(logits, start + tl.arange(0, BLOCK))
        chosen = (kept & (numbers < above)).to(tl.int32)
        tl.store(scratch + copied + tl.cumsum(chosen) - 1, numbers, mask=chosen > 0)
        copied += tl.sum(chosen)
    tl.debug_barrier()  # other threads of the program read what was written
    places = tl.arange(0, BLOCK)
    return tl.load(scratch + places, mask=places < copied, other=MINUS_INFINITY)


@triton.jit
def raise_cut(
    row: tl.tensor, scratch: tl.tensor, cut: tl.tensor, num_kept: tl.tensor, enough: tl.tensor, highest: tl.tensor,
    scale: tl.tensor, VOCAB: tl.constexpr, BLOCK: tl.constexpr, BY_WEIGHT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The highest cut that keeps `enough` of the `num_kept` tokens that `cut` keeps: a token's number, int64.

    Bisection between a cut that keeps enough and one, `above`, that does not, until a single token lies between them.
    The first guess spares the steps through exponents that no likely token has. It ends whatever the
    logits hold: with each step there are fewer numbers between the two.
    """
    above = number_of(highest, 0) + 1
    num_above = tl.full((), 0, tl.int32)
    mass_above = tl.full((), 0.0, tl.float64)
    guess = tl.maximum(number_of(highest - PROBE / scale, LAST_ID), cut)
    while (num_kept - num_above > BLOCK) & (above - cut > 1):
        count, mass = measure(row, guess, highest, scale, VOCAB, BLOCK, BY_WEIGHT)
        cut, num_kept, above, num_above, mass_above = narrow(
            cut, num_kept, above, num_above, mass_above, guess, count, mass, enough
        )  # fmt: skip
        guess = (cut + above) >> 1
    numbers = copy_between(row, cut, above, scratch, VOCAB, BLOCK)
    logits, _ = token_of(numbers)
    num_sure, mass_sure = num_above, mass_above
    while (num_kept - num_above > 1) & (above - cut > 1):
        kept = numbers >= guess
        count = num_sure + tl.sum(kept.to(tl.int32))
        mass = mass_sure + tl.sum(weights_of(logits, kept, highest, scale)) if BY_WEIGHT else count.to(tl.float64)
        cut, num_kept, above, num_above, mass_above = narrow(
            cut, num_kept, above, num_above, mass_above, guess, count, mass, enough
        )  # fmt: skip
        guess = (cut + above) >> 1
    return cut


@triton.jit
def narrow(
    cut: tl.tensor, num_kept: tl.tensor, above: tl.tensor, num_above: tl.tensor, mass_above: tl.tensor,
    guess: tl.tensor, count: tl.tensor, mass: tl.tensor, enough: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """One step of the bisection: the guess, which keeps `count` tokens, becomes the cut or what is above it."""
    keeps_enough = mass >= enough
    return (
        tl.where(keeps_enough, guess, cut),
        tl.where(keeps_enough, count, num_kept),
        tl.where(keeps_enough, above, guess),
        tl.where(keeps_enough, num_above, count),
        tl.where(keeps_enough, mass_above, mass),
    )


@triton.jit
def find_cut(
    row: tl.tensor, scratch: tl.tensor, highest: tl.tensor, scale: tl.tensor, top_k: tl.tensor, top_p: tl.tensor,
    min_p: tl.tensor, VOCAB: tl.constexpr, BLOCK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The number, int64, of the last token that min_p, top_k and top_p keep; weights below 2^-126 count for nothing."""
    cut = number_of(highest + tl.log2(tl.maximum(min_p, 1.2e-38)) / scale, LAST_ID)
    if top_k > 0:
        num_kept, _ = measure(row, cut, highest, scale, VOCAB, BLOCK, False)
        if top_k < num_kept:
            cut = raise_cut(row, scratch, cut, num_kept, top_k.to(tl.float64), highest, scale, VOCAB, BLOCK, False)
    if top_p < 1:
        num_kept, mass = measure(row, cut, highest, scale, VOCAB, BLOCK, True)
        enough = top_p.to(tl.float64) * mass
        cut = raise_cut(row, scratch, cut, num_kept, enough, highest, scale, VOCAB, BLOCK, True)
    return cut


@triton.jit
def draw(
    row: tl.tensor, cut: tl.tensor, threshold: tl.tensor, highest: tl.tensor, scale: tl.tensor,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr, NUM_BLOCKS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Invert the cumulative distribution of what is kept at `threshold` in [0, 1): sums of blocks, then one block."""
    blocks = tl.arange(0, NUM_BLOCKS)
    sums = tl.zeros((NUM_BLOCKS,), tl.float64)
    for start in tl.range(0, VOCAB, BLOCK, num_stages=STAGES):
        logits, kept = kept_block(row, start, cut, VOCAB, BLOCK)
        sums = tl.where(blocks * BLOCK == start, tl.sum(weights_of(logits, kept, highest, scale)), sums)
    ends = tl.cumsum(sums)
    target = threshold * tl.sum(tl.where(blocks == NUM_BLOCKS - 1, ends, 0.0))
    chosen = first_beyond(ends, sums > 0, target, NUM_BLOCKS)
    begin = tl.sum(tl.where(blocks == chosen - 1, ends, 0.0))
    logits, kept = kept_block(row, chosen * BLOCK, cut, VOCAB, BLOCK)
    weights = weights_of(logits, kept, highest, scale)
    return chosen * BLOCK + first_beyond(begin + tl.cumsum(weights), weights > 0, target, BLOCK)


@triton.jit
def first_beyond(ends: tl.tensor, possible: tl.tensor, target: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """The first possible place that ends beyond the target, int32; where rounding leaves none, the last possible."""
    places = tl.arange(0, SIZE)
    first = tl.min(tl.where(possible & (ends > target), places, SIZE))
    last = tl.max(tl.where(possible, places, 0))
    return tl.minimum(first, last)


@triton.jit
def sample_kernel(
    logits: tl.tensor, temperatures: tl.tensor, top_ks: tl.tensor, top_ps: tl.tensor, min_ps: tl.tensor,
    seeds: tl.tensor, positions: tl.tensor, tokens: tl.tensor, scratch: tl.tensor, VOCAB: tl.constexpr,
    BLOCK: tl.constexpr, NUM_BLOCKS: tl.constexpr,
) -> None:  # fmt: skip
    """One row."""
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * VOCAB
    highest, token = likeliest(row, VOCAB, BLOCK)
    temperature = tl.load(temperatures + index)
    if temperature > 0:
        scale = LOG2_E / tl.maximum(temperature, 1e-30)  # of what is smaller the inverse may be infinite
        top_k, top_p, min_p = tl.load(top_ks + index), tl.load(top_ps + index), tl.load(min_ps + index)
        cut = find_cut(row, scratch + index * BLOCK, highest, scale, top_k, top_p, min_p, VOCAB, BLOCK)
        threshold = uniform(tl.load(seeds + index), tl.load(positions + index))
        token = draw(row, cut, threshold, highest, scale, VOCAB, BLOCK, NUM_BLOCKS)
    tl.store(tokens + index, token.to(tl.int64))


def sample_tokens(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Draw one token for each row of float32 [rows, vocab]: int64 [rows], as `kernels.sampling.sample_tokens`.

    Where a draw comes within a few 1e-7 of the edge between two tokens, or a token within that of the edge of top_p or
    min_p, the neighbour may be drawn.

    Raises:
        ValueError: the logits are not contiguous or of another dtype, or the parameters are not one to a row.
    """
    _check(logits, params)
    num_rows, vocab = logits.shape
    block = min(triton.next_power_of_2(vocab), MAX_BLOCK)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    scratch = torch.empty(num_rows, block, dtype=torch.int64, device=logits.device)
    sample_kernel[(num_rows,)](
        logits, *params, tokens, scratch,
        VOCAB=vocab, BLOCK=block, NUM_BLOCKS=triton.next_power_of_2(triton.cdiv(vocab, block)), num_warps=16,
    )  # fmt: skip
    return tokens


def _check(logits: torch.Tensor, params: SamplingTensors) -> None:
    if logits.dtype != torch.float32 or not logits.is_contiguous():
        raise ValueError("logits must be contiguous and torch.float32")
    for name, values, dtype in zip(params._fields, params, PARAM_DTYPES, strict=True):
        if values.shape != logits.shape[:1] or values.dtype != dtype or not values.is_contiguous():
            raise ValueError(
                f"{name} is {values.dtype} {tuple(values.shape)}; it must be contiguous {dtype} [{len(logits)}]"
            )
