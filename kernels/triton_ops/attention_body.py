"""What the kernels of paged attention share: a tile of query rows sees a range of keys; two such ranges are merged.

The query rows of one KV head are (token, head of its group), flattened: row = token * group + head. The softmax is kept
online (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135) in base 2, as three float32
tensors: `highest` [ROWS], the largest score; `total` [ROWS], the sum of the weights 2 ** (scale * (score - highest));
`acc` [ROWS, DIMS], the weighted sum of V. DIMS is the power of two that holds head_dim.

Bits: a tile that a row sees nothing of leaves the row as it was, because its weights are 2 ** -inf = 0 and the factor
of what was there is 2 ** 0 = 1; and every multiplication that an addition follows is an explicit fma, so that a
compiler's choice of contractions cannot make one kernel differ from another.
"""

import triton
import triton.language as tl


@triton.jit
def query_rows(
    first_row: int,
    query_len: int,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Where the rows from `first_row` on lie in Q, from the first one's token on.

    Returns offsets int32 [ROWS, DIMS], and which of them exist.
    """
    row = first_row % GROUP + tl.arange(0, ROWS)
    dims = tl.arange(0, DIMS)
    offsets = row // GROUP * TOKEN_STRIDE + row % GROUP * HEAD_DIM
    exists = first_row // GROUP * GROUP + row < query_len * GROUP
    return offsets[:, None] + dims[None, :], exists[:, None] & (dims < HEAD_DIM)[None, :]


@triton.jit
def nothing_seen(ROWS: tl.constexpr, DIMS: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """(highest, total, acc) of no keys: -1e30 is below any score and, unlike infinity, less itself is a number."""
    return tl.full((ROWS,), -1e30, tl.float32), tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS, DIMS), tl.float32)


@triton.jit
def load_blocks(block_table: tl.tensor, keys: tl.tensor, context_len: int, BLOCK_SIZE: tl.constexpr) -> tl.tensor:
    """The blocks that hold `keys`, int32 [TILE]; 0 for those beyond the context."""
    return tl.load(block_table + keys // BLOCK_SIZE, mask=keys < context_len, other=0)


@triton.jit
def see_keys(
    q: tl.tensor,
    highest: tl.tensor,
    total: tl.tensor,
    acc: tl.tensor,
    positions: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_table: tl.tensor,
    begin: int,
    end: int,
    context_len: int,
    window: int,
    scale: float,
    KEY_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Let rows q [ROWS, DIMS] at `positions` int32 [ROWS] see the keys from `begin` to `end` as well, TILE by TILE.

    Without MASKED each row must see all of these keys. The blocks of a tile are loaded one tile ahead of its K and V,
    whose addresses hang on them: as links of one pipeline they would halve the depth that is left for K and V.
    """
    dims = tl.arange(0, q.shape[1])
    lanes = tl.arange(0, TILE)
    blocks = load_blocks(block_table, begin + lanes, context_len, BLOCK_SIZE)
    for start in tl.range(begin, end, TILE, num_stages=STAGES):
        keys = start + lanes
        offsets = (blocks.to(tl.int64) * BLOCK_SIZE + keys % BLOCK_SIZE)[:, None] * KEY_STRIDE + dims[None, :]
        blocks = load_blocks(block_table, keys + TILE, context_len, BLOCK_SIZE)
        if MASKED or q.shape[1] > HEAD_DIM:
            exists = (keys < context_len)[:, None] & (dims < HEAD_DIM)[None, :]
            k = tl.load(k_cache + offsets, mask=exists, other=0.0)
            v = tl.load(v_cache + offsets, mask=exists, other=0.0)  # zeros: what is not K or V may be NaN
        else:
            k = tl.load(k_cache + offsets)
            v = tl.load(v_cache + offsets)
        scores = tl.dot(q, k.T)
        if MASKED:
            seen = (keys[None, :] <= positions[:, None]) & (keys[None, :] > positions[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
        before, highest = highest, tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(tl.fma(scores, scale, -(highest * scale)[:, None]))
        kept = tl.exp2((before - highest) * scale)
        total = tl.fma(total, kept, tl.sum(weights, 1))
        acc = tl.dot(weights.to(v.dtype), v, acc * kept[:, None])
    return highest, total, acc


@triton.jit
def merge(
    highest: tl.tensor,
    total: tl.tensor,
    acc: tl.tensor,
    next_highest: tl.tensor,
    next_total: tl.tensor,
    next_acc: tl.tensor,
    scale: float,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """What rows saw first, and what they see next, as one."""
    before, highest = highest, tl.maximum(highest, next_highest)
    kept = tl.exp2((before - highest) * scale)
    added = tl.exp2((next_highest - highest) * scale)
    total = tl.fma(total, kept, next_total * added)
    acc = tl.fma(acc, kept[:, None], next_acc * added[:, None])
    return highest, total, acc


@triton.jit
def weighted_mean(total: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """The rows' attention, float32 [ROWS, DIMS]: zeros where nothing was seen."""
    return acc * (1.0 / tl.where(total > 0.0, total, 1.0))[:, None]
