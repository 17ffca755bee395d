"""Kernels in Triton, for NVIDIA GPUs: one file per operation, its body, its launcher and its layout."""
