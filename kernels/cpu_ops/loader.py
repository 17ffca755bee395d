"""The compiled operators as Python sees them."""

import ctypes
from functools import cache

from kernels.cpu_ops.build import build_library, instruction_set


@cache
def load_library() -> ctypes.CDLL | None:
    """The operators for this CPU, compiled if need be; None where they cannot be had. One per process."""
    return open_library(instruction_set())


def arithmetic() -> str:
    """Names whose order of summation a computation on this CPU has; another one gives other bits."""
    return "torch" if load_library() is None else f"cpu_ops/{instruction_set()}"


def open_library(instructions: str | None) -> ctypes.CDLL | None:
    """The operators for an instruction set; None where they cannot be had."""
    path = build_library(instructions)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    library.raydix_pack_int4.argtypes = [pointer, pointer, number]
    library.raydix_pack_words.argtypes = [pointer] * 2 + [ctypes.c_int64] * 2 + [number]
    library.raydix_linear.argtypes = [pointer] * 3 + [number] * 2
    library.raydix_attention.argtypes = [pointer] * 8 + [number] * 2
    library.raydix_layers.argtypes = [pointer, number, pointer, pointer, pointer, number]
    for name in ("pack_int4", "pack_words", "linear", "attention", "layers"):
        getattr(library, f"raydix_{name}").restype = None
    return library
