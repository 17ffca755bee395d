"""Where tests of Triton kernels run: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from typing import Any

import numpy as np
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

    def dot_by_rows(self: Any, a: Any, b: Any, d: Any, precision: Any, max_num_imprecise: Any) -> Any:
        """A product whose rows have the same bits wherever they stand, as the tensor cores' have: NumPy's have not."""
        total = np.zeros(d.data.shape, d.data.dtype)
        rows, columns = a.data.astype(total.dtype), b.data.astype(total.dtype)
        for k in range(rows.shape[-1]):
            total += rows[..., k, None] * columns[..., k, None, :]
        return interpreter.TensorHandle(total + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = dot_by_rows
