"""How much a distribution of weights tells of what it was once it is clipped and rounded (Migacz 2017)."""

import torch

HALF_BINS = 1024
TINY = 1e-12  # a share that stands for none, whose logarithm would be infinite


def weight_histogram(units: torch.Tensor) -> torch.Tensor:
    """Counts of weights [..., g] in 2 * HALF_BINS bins from minus to plus the largest of their unit: float64."""
    largest = units.abs().amax(-1, keepdim=True)
    shares = units / torch.where(largest > 0, largest, 1.0)
    bins = ((shares + 1) * HALF_BINS).long().clamp(max=2 * HALF_BINS - 1)
    return torch.bincount(bins.flatten(), minlength=2 * HALF_BINS).double()


def divergence_of_clipping(histogram: torch.Tensor, shrink: float, steps: int) -> float:
    """Kullback-Leibler divergence, in nats, from weights clipped to `shrink` of their range to those rounded as well.

    What is beyond the range counts at its ends for the first and not at all for the second, so that clipping costs. A
    level's weights are spread over those of its bins that had any.
    """
    kept = max(round(HALF_BINS * shrink), 1)
    inside = histogram[HALF_BINS - kept : HALF_BINS + kept]
    clipped = inside.clone()
    clipped[0] += histogram[: HALF_BINS - kept].sum()
    clipped[-1] += histogram[HALF_BINS + kept :].sum()
    levels = torch.round((torch.arange(2 * kept) + 0.5) * steps / (2 * kept)).long()
    used = (clipped > 0).double()
    zeros = torch.zeros(steps + 1, dtype=torch.float64)
    weights, bins = zeros.index_add(0, levels, inside), zeros.index_add(0, levels, used)
    rounded = (weights / bins.clamp(min=1))[levels] * used
    p, q = clipped / clipped.sum(), rounded / rounded.sum()
    return float((torch.xlogy(p, p) - torch.xlogy(p, q.clamp(min=TINY))).sum())
