"""Where tests of Triton kernels run: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from typing import Any

import torch

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
# The interpreter holds bfloat16 as integers and gets its arithmetic wrong (Triton 3.6).
DTYPES = (torch.float16, torch.bfloat16) if HAS_GPU else (torch.float16,)

if not HAS_GPU:
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_index(tensor: Any, scope: Any) -> None:
        """Let a kernel's number bound a loop: to the interpreter it is an array of one, for NumPy 2.4 no index."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_and_index
