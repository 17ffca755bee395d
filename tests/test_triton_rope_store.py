"""From q/k/v to Q and the cache, in Triton against torch."""

import pytest
import torch
import torch.nn.functional as F

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.attention_step import rotate
from kernels.triton_ops.rope_store import rope_store
from tests.triton_device import DEVICE, DTYPES

BLOCK_SIZE, NUM_BLOCKS, MAX_LEN = 5, 9, 50
SLOTS = [44, 0, -1, 17, 18, 3, -1]
SHAPES = [AttentionShape(6, 2, 24), AttentionShape(4, 4, 16), AttentionShape(9, 3, 64), AttentionShape(2, 1, 128)]


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def step_of(slots: list[int]) -> StepTensors:
    positions = torch.tensor([(7 * row + 3) % MAX_LEN for row in range(len(slots))], device=DEVICE)
    ends = torch.tensor([0, len(slots)], dtype=torch.int32, device=DEVICE)
    return StepTensors(positions, torch.tensor(slots, device=DEVICE), ends[None], ends, ends[1:])


def tables_of(shape: AttentionShape) -> RopeTables:
    angles = noise(MAX_LEN, shape.head_dim // 2, seed=1) * 6
    return RopeTables(angles.cos(), angles.sin())


def norms_of(shape: AttentionShape, names: str) -> HeadNorms:
    q, k = noise(2, shape.head_dim, seed=2)
    return HeadNorms(q if "q" in names else None, k if "k" in names else None, 1e-2)


def reference(
    qkv: torch.Tensor, norms: HeadNorms, rope: RopeTables, step: StepTensors, shape: AttentionShape, cache: torch.Tensor
) -> torch.Tensor:
    """Q in float32; writes K and V as float32 to a cache of that dtype."""
    heads = qkv.view(len(qkv), -1, shape.head_dim)
    q, k, v = torch.split(heads, [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
    size = (shape.head_dim,)
    q = q if norms.q is None else F.rms_norm(q, size, norms.q, norms.eps)
    k = k if norms.k is None else F.rms_norm(k, size, norms.k, norms.eps)
    slots = cache.view(2, -1, shape.num_kv_heads, shape.head_dim)
    written = step.slot_mapping >= 0
    slots[0, step.slot_mapping[written]] = rotate(k, rope, step.positions)[written]
    slots[1, step.slot_mapping[written]] = v[written]
    return rotate(q, rope, step.positions)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("names", ["", "qk", "k"])
@pytest.mark.parametrize(("splits", "biased"), [(1, True), (2, False), (3, True), (4, False)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_what_torch_computes(
    shape: AttentionShape, splits: int, biased: bool, names: str, dtype: torch.dtype
) -> None:
    width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    partials, bias = noise(splits, len(SLOTS), width, seed=3), noise(width, seed=4) if biased else None
    step, rope, norms = step_of(SLOTS), tables_of(shape), norms_of(shape, names)
    cache = noise(2, NUM_BLOCKS, BLOCK_SIZE, shape.num_kv_heads, shape.head_dim, seed=5).to(dtype)
    before, wanted = cache.clone(), cache.float()
    qkv = sum(partials[1:], partials[0])
    wanted_q = reference(qkv if bias is None else qkv + bias, norms, rope, step, shape, wanted)
    q = rope_store(partials, bias, norms, rope, step, shape, cache)
    assert (q.dtype, q.shape) == (dtype, wanted_q.shape)
    rtol = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(q.float(), wanted_q, rtol=rtol, atol=1e-5)
    torch.testing.assert_close(cache.float(), wanted, rtol=rtol, atol=1e-5)
    others = torch.ones(NUM_BLOCKS * BLOCK_SIZE, dtype=torch.bool)
    others[[slot for slot in SLOTS if slot >= 0]] = False
    assert torch.equal(cache.flatten(1, 2)[:, others], before.flatten(1, 2)[:, others])


def test_v_comes_through_to_the_last_bit() -> None:
    shape = SHAPES[0]
    partials = noise(1, 2, 10 * 24, seed=6)
    cache = torch.zeros(2, NUM_BLOCKS, BLOCK_SIZE, 2, 24, device=DEVICE)
    rope_store(partials, None, norms_of(shape, "qk"), tables_of(shape), step_of([7, 12]), shape, cache)
    assert torch.equal(cache[1].flatten(0, 1)[[7, 12]], partials[0].view(2, 10, 24)[:, 8:])


def test_a_token_does_not_depend_on_the_batch() -> None:
    shape, slots = SHAPES[0], [44, 0, 17]
    partials, norms, rope = noise(2, 3, 240, seed=7), norms_of(shape, "qk"), tables_of(shape)
    together, alone = torch.zeros(2, 2, NUM_BLOCKS, BLOCK_SIZE, 2, 24, dtype=torch.float16, device=DEVICE)
    step = step_of(slots)
    q = rope_store(partials, None, norms, rope, step, shape, together)
    for row in range(3):
        one = slice(row, row + 1)
        part = StepTensors(
            step.positions[one], step.slot_mapping[one], step.block_tables, step.query_starts, step.context_lens
        )
        assert torch.equal(q[one], rope_store(partials[:, one].contiguous(), None, norms, rope, part, shape, alone))
    assert torch.equal(together, alone)


@pytest.mark.gpu
def test_slots_beyond_two_to_the_31_elements_are_written() -> None:
    shape = AttentionShape(8, 8, 128)
    num_blocks = 2**31 // (16 * 8 * 128) + 2
    cache = torch.zeros(2, num_blocks, 16, 8, 128, dtype=torch.bfloat16, device=DEVICE)
    partials, slot = noise(1, 1, 24 * 128, seed=8), num_blocks * 16 - 1
    rope_store(partials, None, HeadNorms(), tables_of(shape), step_of([slot]), shape, cache)
    assert torch.equal(cache[1, -1, -1], partials[0, 0].view(24, 128)[16:].bfloat16())
    assert cache[0, -1, -1].any()
    assert not cache[:, :-1].any()


def test_what_does_not_fit_is_refused() -> None:
    shape, rope, step = SHAPES[0], tables_of(SHAPES[0]), step_of([1, 2])
    cache = torch.zeros(2, NUM_BLOCKS, BLOCK_SIZE, 2, 24, device=DEVICE)
    with pytest.raises(ValueError, match=r"\[splits, tokens, 240\]"):
        rope_store(noise(1, 2, 241, seed=0), None, HeadNorms(), rope, step, shape, cache)
    with pytest.raises(ValueError, match="2 tokens does not fit"):
        rope_store(noise(1, 3, 240, seed=0), None, HeadNorms(), rope, step, shape, cache)
    with pytest.raises(ValueError, match="a cache of"):
        rope_store(noise(1, 2, 240, seed=0), None, HeadNorms(), rope, step, shape, cache.transpose(1, 2))
    with pytest.raises(ValueError, match="rotary tables"):
        rope_store(noise(1, 2, 240, seed=0), None, HeadNorms(), tables_of(SHAPES[1]), step, shape, cache)
