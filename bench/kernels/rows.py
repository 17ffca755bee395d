"""The kernels that work row by row, at the sizes of Llama 3 8B."""

import torch
import torch.nn.functional as F

from bench.kernels.case import KernelCase, Launch
from kernels.attention_inputs import AttentionShape, HeadNorms, RopeTables, StepTensors

HIDDEN, INTERMEDIATE, SPLITS, BLOCK_SIZE, NUM_BLOCKS = 4096, 14336, 2, 16, 1024
SHAPE = AttentionShape(32, 8, 128)
QKV = (32 + 2 * 8) * 128


def cases() -> list[KernelCase]:
    """One to a prefill chunk's worth of tokens; partial sums of two splits."""
    makers = (add_norm_case, rope_store_case, silu_mul_case)
    by_token = [make(tokens) for make in makers for tokens in (1, 64, 2048)]
    return [*by_token, copy_blocks_case(4), copy_blocks_case(128)]


def add_norm_case(tokens: int) -> KernelCase:
    """The sum of the residual stream and its norm."""

    def make(device: torch.device) -> Launch:
        from kernels.triton_ops.add_norm import add_norm

        residual, weight = torch.randn(tokens, HIDDEN, device=device), torch.randn(HIDDEN, device=device)
        partials = torch.randn(SPLITS, tokens, HIDDEN, device=device)
        return lambda: add_norm(residual, partials, None, weight, 1e-5, torch.bfloat16)

    def make_torch(device: torch.device) -> Launch:
        residual, weight = torch.randn(tokens, HIDDEN, device=device), torch.randn(HIDDEN, device=device)
        partials = torch.randn(SPLITS, tokens, HIDDEN, device=device)
        return lambda: F.rms_norm(residual.add_(partials.sum(0)), (HIDDEN,), weight, 1e-5).bfloat16()

    elements = tokens * HIDDEN
    num_bytes = elements * (4 * (2 + SPLITS) + 2) + 4 * HIDDEN
    return KernelCase(f"add_norm {HIDDEN} T={tokens}", make, num_bytes, elements * (SPLITS + 4), {"torch": make_torch})


def silu_mul_case(tokens: int) -> KernelCase:
    """SwiGLU's gate."""

    def partials_on(device: torch.device) -> torch.Tensor:
        return torch.randn(SPLITS, tokens, 2 * INTERMEDIATE, device=device)

    def make(device: torch.device) -> Launch:
        from kernels.triton_ops.silu_mul import silu_mul

        partials = partials_on(device)
        return lambda: silu_mul(partials, torch.bfloat16)

    def make_torch(device: torch.device) -> Launch:
        partials = partials_on(device)

        def launch() -> torch.Tensor:
            gate, up = partials.sum(0).chunk(2, dim=-1)
            return (F.silu(gate) * up).bfloat16()

        return launch

    elements = tokens * INTERMEDIATE
    num_bytes = elements * (4 * 2 * SPLITS + 2)
    return KernelCase(
        f"silu_mul {INTERMEDIATE} T={tokens}", make, num_bytes, elements * (2 * SPLITS + 3), {"torch": make_torch}
    )


def rope_store_case(tokens: int) -> KernelCase:
    """Rotation of Q and K, and K and V to the cache."""

    def step_on(device: torch.device) -> tuple[RopeTables, StepTensors]:
        tables = RopeTables(*torch.randn(2, 8192, SHAPE.head_dim // 2, device=device))
        slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE, device=device)[:tokens]
        unused = torch.zeros(1, dtype=torch.int32, device=device)
        return tables, StepTensors(torch.arange(tokens, device=device), slots, unused[None], unused, unused)

    def make(device: torch.device) -> Launch:
        from kernels.triton_ops.rope_store import rope_store

        tables, step = step_on(device)
        cache = torch.zeros(2, NUM_BLOCKS, BLOCK_SIZE, 8, 128, dtype=torch.bfloat16, device=device)
        partials = torch.randn(SPLITS, tokens, QKV, device=device)
        return lambda: rope_store(partials, None, HeadNorms(), tables, step, SHAPE, cache)

    def make_torch(device: torch.device) -> Launch:
        from kernels.attention_step import rotate
        from kernels.kv_store import write_kv

        tables, step = step_on(device)
        cache = torch.zeros(2, NUM_BLOCKS, BLOCK_SIZE, 8, 128, dtype=torch.bfloat16, device=device)
        partials = torch.randn(SPLITS, tokens, QKV, device=device)

        def launch() -> torch.Tensor:
            q, k, v = torch.split(partials.sum(0).view(tokens, -1, SHAPE.head_dim), [32, 8, 8], dim=1)
            k = rotate(k, tables, step.positions).bfloat16()
            write_kv(cache, k, v.bfloat16(), step.slot_mapping)
            return rotate(q, tables, step.positions).bfloat16()

        return launch

    num_bytes = tokens * (4 * SPLITS * QKV + 2 * QKV + 4 * SHAPE.head_dim + 16)
    return KernelCase(
        f"rope_store 32/8x128 T={tokens}", make, num_bytes, tokens * QKV * (SPLITS + 2), {"torch": make_torch}
    )


def copy_blocks_case(num_ids: int) -> KernelCase:
    """Blocks out of the cache of all layers, as for a hand-off of 16 tokens each."""
    size = (32, 2, NUM_BLOCKS, BLOCK_SIZE, SHAPE.num_kv_heads, SHAPE.head_dim)

    def make(device: torch.device) -> Launch:
        from kernels.triton_ops.copy_blocks import gather_blocks

        cache = torch.empty(size, dtype=torch.bfloat16, device=device)
        ids = torch.randperm(NUM_BLOCKS, device=device)[:num_ids]
        return lambda: gather_blocks(cache, ids)

    def make_torch(device: torch.device) -> Launch:
        cache = torch.empty(size, dtype=torch.bfloat16, device=device)
        ids = torch.randperm(NUM_BLOCKS, device=device)[:num_ids]
        return lambda: cache.index_select(2, ids).permute(2, 0, 1, 3, 4, 5).contiguous()

    num_bytes = 2 * 2 * num_ids * 32 * 2 * BLOCK_SIZE * SHAPE.num_kv_heads * SHAPE.head_dim
    return KernelCase(f"gather_blocks 32x8x128 n={num_ids}", make, num_bytes, 0, {"torch": make_torch})
