"""AWQ (Lin et al. 2023, arXiv 2306.00978): inputs that are large matter most, so their weights are scaled up before
they are rounded, and the inputs scaled down by as much in the operation before.
"""

from collections.abc import Callable, Sequence

import torch

from workers.quantization.input_statistics import output_error

Rounded = Callable[[torch.Tensor], torch.Tensor]
EXPONENTS = tuple(step / 20 for step in range(20))  # of the inputs' mean sizes: the paper's grid, 0 for no scaling
LEAST = 1e-4  # of a mean size, so that an input that is never used gets a scale too


def search_scales(
    matrices: Sequence[torch.Tensor], sizes: torch.Tensor, gram: torch.Tensor, rounded: Rounded
) -> torch.Tensor:
    """The factors of the inputs' weights under which rounding changes the outputs least, float32 [K].

    Args:
        matrices: float32 [N, K], all multiplied with the same inputs.
        sizes: mean of |x| over the inputs x, or of those that must have one factor, float32 [K].
        gram: mean of x x^T, float32 [K, K].
        rounded: what a matrix becomes when it is rounded.
    """

    def error(scales: torch.Tensor) -> float:
        differences = (rounded(matrix * scales) / scales - matrix for matrix in matrices)
        return sum(output_error(difference, gram) for difference in differences)

    return min((scales_of(sizes, exponent) for exponent in EXPONENTS), key=error)


def scales_of(sizes: torch.Tensor, exponent: float) -> torch.Tensor:
    """Powers of the inputs' sizes, the largest as far above 1 as the smallest is below."""
    scales = sizes.clamp(min=LEAST) ** exponent
    return scales / (scales.max() * scales.min()).sqrt()


def share_heads(sizes: torch.Tensor, num_kv_heads: int, head_dim: int) -> torch.Tensor:
    """The same sizes for all heads of queries that attend to one head of values: float32 [heads * head_dim].

    What they attend to is scaled where the values are made, and so for all of them alike.
    """
    groups = sizes.view(num_kv_heads, -1, head_dim)
    return groups.mean(1, keepdim=True).expand_as(groups).reshape(-1)
