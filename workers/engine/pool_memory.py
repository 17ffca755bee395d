"""How many bytes the KV pool gets: what is asked for, or what a GPU has left once the weights are on it."""

from dataclasses import dataclass

import torch

from kernels.attention_inputs import WORKSPACE_BYTES
from workers.config import CacheConfig, EngineConfig, SchedulerConfig
from workers.models.spec import ModelError, ModelSpec

CPU_POOL_BYTES = 512 * 2**20
# What torch does not count: CUDA's context, compiled kernels, graphs, cuBLAS's workspace. A generous guess.
CONTEXT_BYTES = 2**30
# Float32 buffers of a step's widest rows and of its logits that are alive at once, partial sums of split products
# included. Counted in the code, generously: there are no figures of a GPU yet.
ROW_BUFFERS, LOGIT_BUFFERS = 6, 8
# The torch reference, which computes where no kernel fits, unpacks a whole int4 matrix: bytes per weight at its peak.
UNPACKED_BYTES = 16


@dataclass(frozen=True)
class GpuMemory:
    """One GPU's memory when the weights have been loaded, in bytes.

    Attributes:
        total: of the card.
        free: left of it by everybody, other processes too.
        held: by this process's tensors.
    """

    total: int
    free: int
    held: int


def kv_pool_bytes(spec: ModelSpec, config: EngineConfig, device: torch.device) -> int:
    """Bytes of KV pool for an engine whose weights are loaded. Raises ModelError where a GPU has none left."""
    known = known_pool_bytes(config.cache, device)
    if known is not None:
        return known
    reserve = step_bytes(spec, config.scheduler)
    return gpu_pool_bytes(read_gpu_memory(device), config.cache.gpu_memory_utilization, reserve)


def known_pool_bytes(config: CacheConfig, device: torch.device) -> int | None:
    """The pool where it does not depend on what is free; None where it does."""
    if config.memory_bytes is not None:
        return config.memory_bytes
    return None if device.type == "cuda" else CPU_POOL_BYTES


def read_gpu_memory(device: torch.device) -> GpuMemory:
    """Ask CUDA, after what torch keeps for later, loading's leftovers among it, has been given back."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return GpuMemory(total, free, torch.cuda.memory_reserved(device))


def gpu_pool_bytes(memory: GpuMemory, utilization: float, reserve_bytes: int) -> int:
    """This worker's share of the card less its weights and the buffers of its steps; never more than there is.

    What other processes hold does not count against the share, so that several workers can each have one of the same
    card, in whatever order they start (as with vLLM's option of this name).

    Raises:
        ModelError: nothing is left.
    """
    share = int(memory.total * utilization)
    left = min(share - CONTEXT_BYTES - memory.held, memory.free) - reserve_bytes
    if left <= 0:
        raise ModelError(
            f"no GPU memory is left for the KV pool: gpu_memory_utilization {utilization:g} of {gib(memory.total)} is "
            f"{gib(share)}; the weights hold {gib(memory.held)}, a step's buffers take {gib(reserve_bytes)} and CUDA "
            f"{gib(CONTEXT_BYTES)}; {gib(memory.free)} of the card are free. Raise gpu_memory_utilization, lower "
            "max_num_batched_tokens, or free the GPU"
        )
    return left


def step_bytes(spec: ModelSpec, config: SchedulerConfig) -> int:
    """What the largest step needs beside weights and KV: computed from the model's sizes, not measured."""
    q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    outputs = max(2 * spec.intermediate_size, q_size + 2 * kv_size, spec.hidden_size)
    rows = config.max_num_batched_tokens * outputs * 4 * ROW_BUFFERS
    logits = config.max_num_seqs * spec.vocab_size * 4 * LOGIT_BUFFERS
    unpacked = outputs * max(spec.hidden_size, q_size) * UNPACKED_BYTES
    return rows + logits + unpacked + WORKSPACE_BYTES


def gib(num_bytes: int) -> str:
    """For messages."""
    return f"{num_bytes / 2**30:.2f} GiB"
