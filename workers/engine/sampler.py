"""Next tokens from logits. Every draw is a function of (seed, position), never of the batch or the worker."""

from collections.abc import Sequence

import torch

from workers.request import SamplingParams

MASK64 = 2**64 - 1


def sample(logits: torch.Tensor, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
    """Draw one token per row.

    Args:
        logits: float32 [rows, vocab].
        params: per row, how to draw.
        positions: per row, the position the token will have; it keys the draw together with the seed.
    """
    greedy = logits.argmax(dim=-1).tolist()
    return [
        greedy[row] if param.temperature == 0 else draw(logits[row], param, uniform(param.seed, position))
        for row, (param, position) in enumerate(zip(params, positions, strict=True))
    ]


def draw(logits: torch.Tensor, params: SamplingParams, threshold: float) -> int:
    """Invert the cumulative distribution of one row [vocab] at `threshold`, most likely tokens first.

    top_k cuts before top_p, both on the tempered distribution, as in Transformers and vLLM.
    """
    ordered, token_ids = logits.double().sort(descending=True, stable=True)
    if params.top_k:
        ordered = ordered[: params.top_k]
    # Shifted before it is divided: however small the temperature, the best token's logit stays 0.
    cumulative = ((ordered - ordered[0]) / params.temperature).softmax(dim=-1).cumsum(dim=-1)
    kept = int((cumulative < params.top_p).sum()) + 1  # the token that crosses top_p is kept
    cumulative = cumulative[:kept]
    choice = int((cumulative <= threshold * cumulative[-1]).sum())
    return int(token_ids[min(choice, len(cumulative) - 1)])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from a seed and a position: SplitMix64 (Steele et al. 2014), 53 bits of it."""
    z = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return ((z ^ (z >> 31)) >> 11) / 2**53
