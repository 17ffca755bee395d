"""Speed of the Triton kernels, and what the compiler makes of them."""
