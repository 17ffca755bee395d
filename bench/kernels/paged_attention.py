"""Paged attention: decode over long contexts, and causal prefill; heads of 128, blocks of 16, bfloat16."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.kernels.case import KernelCase, Launch
from kernels.attention_inputs import AttentionShape
from kernels.triton_ops.attention_tiling import attention_tiling
from kernels.triton_ops.attention_work import AttentionWork, plan_attention
from kernels.triton_ops.paged_attention import AttentionWorkspace, TritonPagedAttention

BLOCK_SIZE = 16
LLAMA_8B, LLAMA_70B = AttentionShape(32, 8, 128), AttentionShape(64, 8, 128)
DECODE = [(64, 2048), (64, 4096), (64, 8192), (16, 4096), (1, 8192), (1, 32768)]  # sequences, tokens in context
PREFILL = [(8192, 8192), (512, 8192), (32, 8192)]  # new tokens of one sequence, tokens in context


@dataclass(frozen=True)
class Size:
    """`batch` sequences with `new` tokens each, in contexts of `context` tokens."""

    shape: AttentionShape
    batch: int
    new: int
    context: int

    @property
    def name(self) -> str:
        heads = f"{self.shape.num_heads}/{self.shape.num_kv_heads} heads"
        if self.new == 1:
            return f"paged_attention decode {heads} batch={self.batch} context={self.context}"
        return f"paged_attention prefill {heads} new={self.new} context={self.context}"

    @property
    def num_bytes(self) -> int:
        """K and V once, Q and the result."""
        kv_elements = 2 * self.batch * self.context * self.shape.num_kv_heads * self.shape.head_dim
        return 2 * (kv_elements + 2 * self.batch * self.new * self.shape.num_heads * self.shape.head_dim)

    @property
    def num_flops(self) -> int:
        """Two products, over the keys that each token sees."""
        pairs = self.new * self.context - self.new * (self.new - 1) // 2
        return 4 * self.batch * pairs * self.shape.num_heads * self.shape.head_dim


def cases() -> list[KernelCase]:
    """Prefill and decode, fast and strict, beside torch's attention over contiguous K and V."""
    decode = [Size(shape, batch, 1, context) for shape in (LLAMA_8B, LLAMA_70B) for batch, context in DECODE]
    prefill = [Size(LLAMA_8B, 1, new, context) for new, context in PREFILL]
    return [size_case(size, strict) for size in prefill + decode for strict in (False, True)]


def size_case(size: Size, strict: bool) -> KernelCase:
    """One size in one kind of numerics."""
    return KernelCase(
        name=f"{size.name} {'strict' if strict else 'fast'}",
        make=lambda device: make_paged(size, strict, device),
        num_bytes=size.num_bytes,
        num_flops=size.num_flops,
        baselines={} if strict else {"sdpa": lambda device: make_sdpa(size, device)},  # once is enough
    )


def normal(*shape: int, device: torch.device) -> torch.Tensor:
    """Random bfloat16; whatever was in the memory where nothing is computed with it."""
    empty = torch.empty(shape, dtype=torch.bfloat16, device=device)
    return empty.normal_() if device.type == "cuda" else empty


def make_paged(size: Size, strict: bool, device: torch.device) -> Launch:
    """Sequences over blocks in random order."""
    shape, tokens = size.shape, size.batch * size.new
    tiling = attention_tiling(shape.head_dim, strict=strict)
    q = normal(tokens, shape.num_heads, shape.head_dim, device=device)
    tables = torch.randperm(size.batch * size.context // BLOCK_SIZE, device=device).int().view(size.batch, -1)
    cache = normal(2, tables.numel(), BLOCK_SIZE, shape.num_kv_heads, shape.head_dim, device=device)
    workspace = AttentionWorkspace(shape, 1 << 14, device)
    lens = [size.new] * size.batch, [size.context] * size.batch
    heads = shape.num_heads // shape.num_kv_heads, shape.num_kv_heads
    plan = plan_attention(*lens, *heads, tiling, 0, workspace.rows)
    work = AttentionWork.of(plan, 0, device)
    attention = TritonPagedAttention(shape, tiling, workspace)
    return lambda: attention(q, cache, tables, work)


def make_sdpa(size: Size, device: torch.device) -> Launch:
    """Torch's attention, K and V contiguous; causal where all tokens are new, else with a mask if it needs one."""
    shape = size.shape
    q = normal(size.batch, shape.num_heads, size.new, shape.head_dim, device=device)
    k, v = (normal(size.batch, shape.num_kv_heads, size.context, shape.head_dim, device=device) for _ in range(2))
    if size.new == size.context:
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    ones = torch.ones(size.new, size.context, dtype=torch.bool, device=device)
    mask = None if size.new == 1 else ones.tril(size.context - size.new)
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
