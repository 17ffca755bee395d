"""Two orders of the rows of q and k.

Hugging Face rotates the halves of a head against each other; Llama's own code, and formats that follow it, rotate
neighbours, so that row i of the first half stands beside row i of the second.
"""

import torch


def halves_from_pairs(num_rows: int, head_dim: int) -> torch.Tensor:
    """int64 [num_rows]: which row of a matrix in pairs each row of one in halves is."""
    return torch.arange(num_rows).view(-1, head_dim // 2, 2).transpose(1, 2).flatten()


def pairs_from_halves(num_rows: int, head_dim: int) -> torch.Tensor:
    """The other way round."""
    return torch.arange(num_rows).view(-1, 2, head_dim // 2).transpose(1, 2).flatten()
