"""What the linear kernels ask of the rows they are given."""

import torch

DTYPES = (torch.bfloat16, torch.float16)


def check_rows(x: torch.Tensor, num_inputs: int, dtypes: tuple[torch.dtype, ...] = DTYPES) -> None:
    """Raise ValueError unless x is a contiguous [rows, num_inputs] of one of the dtypes."""
    if x.ndim != 2 or x.shape[1] != num_inputs or x.dtype not in dtypes or not x.is_contiguous():
        wanted = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(f"rows must be contiguous {wanted} [rows, {num_inputs}], not {x.dtype} {tuple(x.shape)}")
