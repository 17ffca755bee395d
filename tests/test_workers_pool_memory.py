"""The size of the KV pool: as configured, 512 MiB on a CPU, and on a GPU what the worker's share has left."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.config import CacheConfig, EngineConfig, SchedulerConfig, WeightConfig
from workers.engine.build import max_sequence_len
from workers.engine.pool_memory import (
    CONTEXT_BYTES,
    GpuMemory,
    gpu_pool_bytes,
    known_pool_bytes,
    kv_pool_bytes,
    step_bytes,
)
from workers.models.spec import ModelError, ModelSpec, read_model_spec
from workers.weights.model_dir import TINY_MODEL

GIB = 2**30
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SPEC = read_model_spec(TINY_MODEL)


def llama_8b() -> ModelSpec:
    """Sizes of Llama-3-8B; what the memory does not depend on is the bundled model's."""
    return replace(
        SPEC,
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
    )


def test_the_share_less_what_is_held_by_this_process() -> None:
    memory = GpuMemory(total=100 * GIB, free=80 * GIB, held=10 * GIB)
    assert gpu_pool_bytes(memory, 0.5, 2 * GIB) == 50 * GIB - CONTEXT_BYTES - 10 * GIB - 2 * GIB


def test_never_more_than_is_free() -> None:
    memory = GpuMemory(total=100 * GIB, free=30 * GIB, held=10 * GIB)
    assert gpu_pool_bytes(memory, 0.9, 2 * GIB) == 28 * GIB


def test_two_workers_on_one_card_get_the_same_pool_whoever_comes_first() -> None:
    weights, share, step = 5 * GIB, 0.45, 2 * GIB
    first = gpu_pool_bytes(GpuMemory(100 * GIB, 94 * GIB, weights), share, step)
    left = 94 * GIB - first - step - CONTEXT_BYTES - weights  # the second one's context and weights are there too
    assert gpu_pool_bytes(GpuMemory(100 * GIB, left, weights), share, step) == first


@pytest.mark.parametrize(
    ("memory", "utilization"),
    [
        (GpuMemory(total=24 * GIB, free=2 * GIB, held=4 * GIB), 0.9),  # others took the card
        (GpuMemory(total=24 * GIB, free=18 * GIB, held=4 * GIB), 0.25),  # the share is too small
    ],
)
def test_nothing_left_is_an_error_with_the_figures(memory: GpuMemory, utilization: float) -> None:
    figures = (
        rf"(?s)gpu_memory_utilization {utilization} of 24.00 GiB is .*weights hold 4.00 GiB.*buffers take 2.00 GiB"
        rf".* {memory.free / GIB:.2f} GiB of the card are free"
    )
    with pytest.raises(ModelError, match=figures):
        gpu_pool_bytes(memory, utilization, 2 * GIB)


@given(
    total=st.integers(1, 200),
    used=st.integers(0, 200),
    held=st.integers(0, 200),
    share=st.floats(0.01, 1),
    step=st.integers(0, 9),
)
def test_the_pool_fits_the_card_and_the_share(total: int, used: int, held: int, share: float, step: int) -> None:
    memory = GpuMemory(total * GIB, max(total - used, 0) * GIB, held * GIB)
    try:
        pool = gpu_pool_bytes(memory, share, step * GIB)
    except ModelError:
        assert min(share * memory.total - CONTEXT_BYTES - memory.held, memory.free) <= step * GIB
        return
    assert 0 < pool <= memory.free - step * GIB
    assert pool + memory.held + step * GIB + CONTEXT_BYTES <= share * memory.total


def test_a_step_of_an_8b_model_needs_a_few_gib_and_more_with_more_tokens_and_sequences() -> None:
    usual = step_bytes(llama_8b(), SchedulerConfig())
    assert GIB < usual < 6 * GIB
    gate_up_rows = 2048 * 28672 * 4
    assert step_bytes(llama_8b(), SchedulerConfig(32, 4096)) >= usual + gate_up_rows
    assert step_bytes(llama_8b(), SchedulerConfig(64, 2048)) >= usual + 32 * 128256 * 4


def test_what_is_asked_for_wins_and_a_cpu_gives_512_mib() -> None:
    assert known_pool_bytes(CacheConfig(memory_bytes=7), CUDA) == 7
    assert known_pool_bytes(CacheConfig(), CPU) == 512 * 2**20
    assert known_pool_bytes(CacheConfig(), CUDA) is None
    assert kv_pool_bytes(SPEC, EngineConfig(CacheConfig(memory_bytes=7)), CUDA) == 7


def test_a_pool_of_a_gpu_does_not_bound_requests_before_the_model_is_there() -> None:
    on_gpu = EngineConfig(weights=WeightConfig(device="cuda"))
    long = replace(llama_8b(), max_model_len=10**6)
    assert max_sequence_len(long, on_gpu) == 10**6
    assert max_sequence_len(long, EngineConfig(weights=WeightConfig(device="cpu"))) == 512 * 2**20 // (128 * 1024)
