"""On a GPU the KV pool takes what the worker's share has left, and a share that is too small is refused."""

import pytest
import torch

from tests.helpers import generate, request_of
from workers.config import CacheConfig, EngineConfig, WeightConfig
from workers.engine.build import build_engine
from workers.engine.pool_memory import CONTEXT_BYTES, read_gpu_memory, step_bytes
from workers.models.spec import ModelError, read_model_spec
from workers.weights.model_dir import TINY_MODEL

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


def engine_config(utilization: float) -> EngineConfig:
    return EngineConfig(CacheConfig(gpu_memory_utilization=utilization), weights=WeightConfig(device="cuda"))


def test_cuda_says_what_is_held_and_free() -> None:
    before = read_gpu_memory(CUDA)
    tensor = torch.empty(2**30, dtype=torch.uint8, device=CUDA)
    after = read_gpu_memory(CUDA)
    assert after.total == before.total
    assert after.held - before.held >= tensor.nbytes
    assert before.free - after.free >= tensor.nbytes * 0.9


def test_the_pool_fills_the_share_and_gives_tokens() -> None:
    config = engine_config(0.1)
    share = 0.1 * read_gpu_memory(CUDA).total
    built = build_engine(TINY_MODEL, config)
    reserve = CONTEXT_BYTES + step_bytes(read_model_spec(TINY_MODEL), config.scheduler)
    pool = built.kv_cache.tensor.nbytes
    assert pool <= share - reserve
    assert len(generate(built.engine, [request_of("r", range(2, 40), 8, ignore_eos=True)])["r"]) == 8
    held = torch.cuda.memory_reserved(CUDA)  # the workspace, the recorded steps and a prompt's buffers too
    assert share - reserve - 64 * 2**20 <= held <= share - CONTEXT_BYTES + 64 * 2**20
    assert pool > held / 2


def test_a_share_that_holds_no_pool_is_refused() -> None:
    with pytest.raises(ModelError, match="no GPU memory is left for the KV pool"):
        build_engine(TINY_MODEL, engine_config(0.001))
