"""Rotary embedding: tables as Transformers makes them, at positions where an error in a frequency's last bit shows."""

from typing import Any

import pytest
import torch

from tests.families import LLAMA3, YARN, config_of
from workers.models.config_fields import ConfigFields
from workers.models.rope import LinearRope, rope_tables, rotate
from workers.models.rope_config import read_rope

CPU = torch.device("cpu")
LLAMA_3_1: dict[str, object] = {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 8192}
QWEN_YARN: dict[str, object] = {**YARN, "rope_theta": 1e6, "original_max_position_embeddings": 32768}
ROPES: dict[str, dict[str, object]] = {
    "default": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "llama3": LLAMA_3_1,
    "yarn": QWEN_YARN,
    "yarn-attention-factor": {**QWEN_YARN, "attention_factor": 0.7},
    "yarn-mscale": {**QWEN_YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 1.3},
    "yarn-one-mscale": {**QWEN_YARN, "mscale": 0.707},
    "yarn-betas": {**QWEN_YARN, "beta_fast": 20.0, "beta_slow": 3.0},
    "yarn-not-truncated": {**QWEN_YARN, "truncate": False},
    "yarn-narrow": {**QWEN_YARN, "beta_fast": 1.001, "beta_slow": 1.0, "truncate": False},
    "yarn-every-dimension-slow": {**QWEN_YARN, "original_max_position_embeddings": 64, "rope_theta": 1e4},
    "yarn-no-blended-dimension": {**QWEN_YARN, "original_max_position_embeddings": 6},
    "yarn-every-dimension-fast": {**QWEN_YARN, "rope_theta": 10.0, "factor": 1.5},
    "yarn-factor-of-one": {**QWEN_YARN, "factor": 1.0},
}


def reference_tables(config: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Transformers' cos and sin, whose two halves are alike: the first of each, [positions, head_dim / 2]."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    return cos[0].chunk(2, -1)[0], sin[0].chunk(2, -1)[0]


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("name", ROPES)
def test_tables_are_those_of_transformers(name: str, head_dim: int) -> None:
    max_len = 40_000
    config = config_of("llama", head_dim=head_dim, max_position_embeddings=max_len, rope_parameters=dict(ROPES[name]))
    rope = read_rope(ConfigFields({"max_position_embeddings": max_len, "rope_parameters": ROPES[name]}))
    tables = rope_tables(rope, head_dim, max_len, CPU)
    positions = torch.tensor([0, 1, 2, 1023, 8191, 8192, 32_768, max_len - 1])
    for ours, theirs in zip(tables, reference_tables(config, positions), strict=True):
        assert ours.shape == (max_len, head_dim // 2)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours[positions], theirs, atol=1e-6, rtol=0)


def test_the_kinds_differ() -> None:
    tables = [
        rope_tables(read_rope(ConfigFields({"max_position_embeddings": 9, "rope_parameters": rope})), 64, 300, CPU)[0]
        for name, rope in ROPES.items()
        if name not in ("yarn-factor-of-one", "yarn-one-mscale")  # plain RoPE, and plain yarn
    ]
    for i, one in enumerate(tables):
        assert all((one - other).abs().max() > 1e-3 for other in tables[:i]), i


def test_a_table_is_the_beginning_of_a_longer_one() -> None:
    """What lets K of a prefix serve every longer sequence."""
    rope = read_rope(ConfigFields({"max_position_embeddings": 9, "rope_parameters": QWEN_YARN}))
    for short, long in zip(rope_tables(rope, 64, 100, CPU), rope_tables(rope, 64, 1000, CPU), strict=True):
        torch.testing.assert_close(short, long[:100], atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_turns_pairs_by_their_angles(dtype: torch.dtype) -> None:
    """Written out as multiplication of complex numbers."""
    rope, positions = LinearRope(100.0), torch.tensor([5, 0, 31])
    x = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    angles = positions[:, None] * torch.tensor([1.0, 100**-0.25, 0.1, 100**-0.75], dtype=torch.float64)
    pairs = torch.complex(*x.double().chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    rotated = rotate(x, *rope_tables(rope, 8, 32, CPU), positions)
    assert rotated.dtype == torch.float32
    torch.testing.assert_close(rotated.double(), torch.cat([pairs.real, pairs.imag], -1), atol=1e-5, rtol=0)
