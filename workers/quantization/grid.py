"""The levels that weights can have once they are rounded.

weight = (level - zero) * scale of its group, levels being whole numbers from 0 to 2^bits - 1: the scheme of
`kernels.int4`, for 4 and 8 bits and with scales in the checkpoint's dtype.
"""

from dataclasses import dataclass

import torch

from kernels.int4 import round_scales


@dataclass(frozen=True)
class Scheme:
    """What all groups of a matrix have in common.

    Attributes:
        bits: of a level.
        symmetric: zero is the middle level of every group.
        scale_dtype: what scales are stored as.
    """

    bits: int
    symmetric: bool
    scale_dtype: torch.dtype = torch.float16

    @property
    def highest(self) -> int:
        """The highest level."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The level that is zero where the scheme is symmetric."""
        return 1 << (self.bits - 1)


@dataclass(frozen=True)
class Grid:
    """The levels of a matrix [N, K].

    Attributes:
        scales: float32 [N, G], positive, numbers of the scheme's dtype; G groups of K / G weights.
        zeros: float32 [N, G], the levels that stand for 0.0.
    """

    scales: torch.Tensor
    zeros: torch.Tensor
    scheme: Scheme

    def round(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest levels of float32 [N, K]: uint8 [N, K]."""
        groups = weight.view(*self.scales.shape, -1)
        levels = torch.round(groups / self.scales[..., None]) + self.zeros[..., None]
        return levels.clamp(0, self.scheme.highest).to(torch.uint8).view(weight.shape)

    def values(self, levels: torch.Tensor) -> torch.Tensor:
        """What levels [N, K] stand for: float32 [N, K]."""
        groups = levels.view(*self.scales.shape, -1).float()
        return ((groups - self.zeros[..., None]) * self.scales[..., None]).view(levels.shape)

    def nearest(self, weight: torch.Tensor) -> torch.Tensor:
        """A matrix rounded to levels and back."""
        return self.values(self.round(weight))


@dataclass(frozen=True)
class Quantized:
    """A matrix [N, K] as uint8 levels [N, K] of a grid."""

    levels: torch.Tensor
    grid: Grid

    @property
    def values(self) -> torch.Tensor:
        """What it stands for: float32 [N, K]."""
        return self.grid.values(self.levels)


def grid_between(low: torch.Tensor, high: torch.Tensor, scheme: Scheme) -> Grid:
    """The grid whose levels go from `low` to `high`, both float32 [N, G]; zero always is a level.

    A symmetric one goes as far up as down: half a step beyond its highest level, half a step short of its lowest.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    if scheme.symmetric:
        scales = round_scales(torch.maximum(-low, high) * (2 / scheme.highest), scheme.scale_dtype)
        return Grid(scales, torch.full_like(scales, scheme.middle), scheme)
    scales = round_scales(high / scheme.highest - low / scheme.highest, scheme.scale_dtype)
    return Grid(scales, torch.round(-low / scales).clamp(0, scheme.highest), scheme)
