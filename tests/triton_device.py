"""Where tests of Triton kernels run: on a GPU where there is one, else in Triton's interpreter on the CPU."""

import torch

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
# The interpreter holds bfloat16 as integers and gets its arithmetic wrong (Triton 3.6).
DTYPES = (torch.float16, torch.bfloat16) if HAS_GPU else (torch.float16,)
