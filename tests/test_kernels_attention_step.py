"""The torch reference of a step's attention: norms, rotation, the KV store and attention, against plain formulas."""

import math

import pytest
import torch

from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors
from kernels.attention_step import TorchAttentionStep, rotate

SHAPE = AttentionShape(6, 2, 24)
BLOCK_SIZE, NUM_BLOCKS, LENGTH = 5, 90, 310
QKV_SIZE = (SHAPE.num_heads + 2 * SHAPE.num_kv_heads) * SHAPE.head_dim
NORMS = HeadNorms(torch.linspace(0.5, 1.5, 24), torch.linspace(2.0, 1.0, 24), 1e-5)
ANGLES = torch.rand(LENGTH, 12, generator=torch.Generator().manual_seed(1)) * 6
ROPE = RopeTables(ANGLES.cos(), ANGLES.sin())
TABLE = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(2))[: LENGTH // BLOCK_SIZE].int()
QKV = torch.randn(LENGTH, QKV_SIZE, generator=torch.Generator().manual_seed(3))


def step_of(begin: int, end: int) -> StepTensors:
    """Tokens `begin` to `end` of the one sequence."""
    positions = torch.arange(begin, end)
    slots = TABLE[positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
    return StepTensors(positions, slots, TABLE[None], torch.tensor([0, end - begin]).int(), torch.tensor([end]).int())


def empty_cache(dtype: torch.dtype) -> torch.Tensor:
    """Noise, that is: what other sequences have left."""
    size = (2, NUM_BLOCKS, BLOCK_SIZE, SHAPE.num_kv_heads, SHAPE.head_dim)
    return torch.randn(size, generator=torch.Generator().manual_seed(4)).to(dtype)


def run(cuts: list[int], norms: HeadNorms, window: int, dtype: torch.dtype, strict: bool) -> torch.Tensor:
    """The whole sequence in chunks that end at `cuts`; float32 [LENGTH, heads * head_dim]."""
    cache, outs = empty_cache(dtype), []
    for begin, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        attend = TorchAttentionStep(SHAPE, ROPE, step_of(begin, end), strict=strict)
        outs.append(attend(QKV[begin:end], cache, norms, window))
        assert outs[-1].dtype == torch.float32
    return torch.cat(outs)


def plain(norms: HeadNorms, window: int) -> torch.Tensor:
    """The same by the formulas, one head at a time, in float64."""
    heads = QKV.double().view(LENGTH, -1, SHAPE.head_dim)
    group = SHAPE.num_heads // SHAPE.num_kv_heads
    out = torch.empty(LENGTH, SHAPE.num_heads, SHAPE.head_dim, dtype=torch.float64)
    places = torch.arange(LENGTH)
    seen = (places <= places[:, None]) & (places > places[:, None] - (window or LENGTH))
    for head in range(SHAPE.num_heads):
        kv_head = head // group
        q = turned(heads[:, head], norms.q)
        k = turned(heads[:, SHAPE.num_heads + kv_head], norms.k)
        v = heads[:, SHAPE.num_heads + SHAPE.num_kv_heads + kv_head]
        scores = (q @ k.T / math.sqrt(SHAPE.head_dim)).masked_fill(~seen, -math.inf)
        out[:, head] = scores.softmax(-1) @ v
    return out.flatten(1)


def turned(x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
    """Normalise and rotate one head: pair i of a row is a complex number, turned by the angle of its position."""
    if norm is not None:
        x = x / (x.square().mean(-1, keepdim=True) + NORMS.eps).sqrt() * norm.double()
    pairs = torch.complex(x[:, :12], x[:, 12:]) * torch.polar(torch.ones(1).double(), ANGLES.double())
    return torch.cat([pairs.real, pairs.imag], dim=-1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("window", [0, 1, 100])
@pytest.mark.parametrize("norms", [HeadNorms(), NORMS, HeadNorms(None, NORMS.k, NORMS.eps)], ids=["none", "both", "k"])
def test_it_is_what_the_formulas_say(norms: HeadNorms, window: int, strict: bool) -> None:
    wanted = plain(norms, window)
    for cuts in ([], [1, 40, 41, 300]):
        out = run(cuts, norms, window, torch.float32, strict)
        assert (out - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [0, 100])
def test_in_strict_mode_no_cut_changes_a_bit(window: int, dtype: torch.dtype) -> None:
    whole = run([], NORMS, window, dtype, strict=True)
    for cuts in ([309], [1, 2, 3], [255, 256, 257], list(range(17, LENGTH, 17))):
        assert torch.equal(run(cuts, NORMS, window, dtype, strict=True), whole), cuts


def test_k_and_v_are_kept_where_the_step_says() -> None:
    cache, before = empty_cache(torch.float32), empty_cache(torch.float32)
    step = step_of(30, 37)
    TorchAttentionStep(SHAPE, ROPE, step, strict=True)(QKV[30:37], cache, HeadNorms(), 0)
    slots, old = cache.flatten(1, 2), before.flatten(1, 2)
    heads = QKV[30:37].view(7, -1, SHAPE.head_dim)
    assert torch.equal(slots[0, step.slot_mapping], rotate(heads[:, 6:8], ROPE, step.positions))
    assert torch.equal(slots[1, step.slot_mapping], heads[:, 8:])
    others = torch.ones(slots.shape[1], dtype=torch.bool)
    others[step.slot_mapping] = False
    assert torch.equal(slots[:, others], old[:, others])
