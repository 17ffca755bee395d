"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) and the scalings that stretch it to longer contexts.

Halves are rotated against each other, as in Hugging Face checkpoints. Every table here is the same for every length of
the sequence: K computed for a short prefix must be right in a longer sequence, or no block could be cached. The order
of operations is that of Transformers, because an error in the last bit of a frequency grows with the position.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from kernels.attention_inputs import RopeTables


class Rope(Protocol):
    """One kind of rotary embedding."""

    @property
    def theta(self) -> float:
        """The base of the frequencies."""

    @property
    def attention_factor(self) -> float:
        """What rotated q and k are each multiplied by."""

    def inverse_frequencies(self, head_dim: int) -> torch.Tensor:
        """Radians per position, float32 [head_dim / 2]."""

    def context(self, max_position_embeddings: int) -> int:
        """Positions that the scaled embedding is good for."""


@dataclass(frozen=True)
class LinearRope:
    """Positions divided by a factor (Chen et al. 2023, arXiv 2306.15595); a factor of 1 is plain RoPE."""

    theta: float
    factor: float = 1.0
    attention_factor = 1.0

    def inverse_frequencies(self, head_dim: int) -> torch.Tensor:
        """See `Rope`."""
        return plain_frequencies(self.theta, head_dim) / self.factor

    def context(self, max_position_embeddings: int) -> int:
        """See `Rope`. Checkpoints give the length before scaling, as Transformers' documentation asks."""
        return int(max_position_embeddings * self.factor)


@dataclass(frozen=True)
class Llama3Rope:
    """Slow frequencies divided, fast ones kept, others blended (Llama 3.1: Grattafiori et al. 2024, arXiv 2407.21783).

    A frequency is slow where it turns fewer than `low_freq_factor` times in `original_len` positions, and fast where it
    turns more than `high_freq_factor` times.
    """

    theta: float
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_len: int
    attention_factor = 1.0

    def inverse_frequencies(self, head_dim: int) -> torch.Tensor:
        """See `Rope`."""
        plain = plain_frequencies(self.theta, head_dim)
        turns = self.original_len / (2 * math.pi / plain)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - kept) * plain / self.factor + kept * plain

    def context(self, max_position_embeddings: int) -> int:
        """See `Rope`. Checkpoints give the length after scaling."""
        return max_position_embeddings


@dataclass(frozen=True)
class DividedRope:
    """Each frequency divided by a number of its own: what GGUF files have of Llama 3.1's scaling."""

    theta: float
    divisors: tuple[float, ...]
    attention_factor = 1.0

    def inverse_frequencies(self, head_dim: int) -> torch.Tensor:
        """See `Rope`."""
        return plain_frequencies(self.theta, head_dim) / torch.tensor(self.divisors)

    def context(self, max_position_embeddings: int) -> int:
        """See `Rope`. The file gives the length after scaling."""
        return max_position_embeddings


@dataclass(frozen=True)
class YarnRope:
    """YaRN (Peng et al. 2023, arXiv 2309.00071): dimensions blended by their turns, and attention sharpened.

    Attributes:
        factor: how much longer the context becomes.
        original_len: positions the model was trained on before.
        beta_fast, beta_slow: dimensions that turn more often than the one are kept, less often than the other divided.
        truncate: widen the blended range to whole dimensions.
    """

    theta: float
    factor: float
    original_len: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool

    def inverse_frequencies(self, head_dim: int) -> torch.Tensor:
        """See `Rope`."""
        wavelengths = self.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
        kept = 1 - self._ramp(head_dim)
        return 1.0 / (self.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept

    def context(self, max_position_embeddings: int) -> int:
        """See `Rope`. Some checkpoints give the length before scaling and some the one after: neither is asked."""
        return int(self.original_len * self.factor)

    def _ramp(self, head_dim: int) -> torch.Tensor:
        """float32 [head_dim / 2], from 0 for dimensions to keep to 1 for those to divide."""
        low, high = self._dimension_of(self.beta_fast, head_dim), self._dimension_of(self.beta_slow, head_dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = high - low or 0.001
        return ((torch.arange(head_dim // 2).float() - low) / width).clamp(0, 1)

    def _dimension_of(self, turns: float, head_dim: int) -> float:
        """The dimension, counted in fractions, that turns so many times in the original length."""
        return head_dim * math.log(self.original_len / (turns * 2 * math.pi)) / (2 * math.log(self.theta))


def plain_frequencies(theta: float, head_dim: int) -> torch.Tensor:
    """Radians per position of plain RoPE, float32 [head_dim / 2]."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)


def rope_tables(rope: Rope, head_dim: int, max_len: int, device: torch.device) -> RopeTables:
    """cos and sin of every position's angles, times the attention factor."""
    angles = torch.outer(torch.arange(max_len, dtype=torch.float32), rope.inverse_frequencies(head_dim))
    cos, sin = angles.cos().mul_(rope.attention_factor), angles.sin_().mul_(rope.attention_factor)
    return RopeTables(cos.to(device), sin.to(device))
