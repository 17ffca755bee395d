"""Which device an engine computes on, and whose KV another may use."""

from dataclasses import replace
from typing import Any

import pytest

from workers.config import WeightConfig
from workers.engine.build import kv_namespace, pick_device
from workers.weights.model_dir import TINY_MODEL


def test_the_device_named_is_taken() -> None:
    assert pick_device("cpu").type == "cpu"
    assert [str(pick_device(name)) for name in ("cuda", "cuda:0")] == ["cuda", "cuda:0"]
    assert pick_device("auto").type in ("cpu", "cuda")


def test_a_gpu_other_than_the_first_is_refused() -> None:
    """A worker's thread would launch its kernels on the first."""
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=1 and name"):
        pick_device("cuda:1")


@pytest.mark.parametrize(
    "change",
    [{"quantization": "none"}, {"group_size": 32}, {"dtype": "float32"}, {"activations": "int8"}, {"numerics": "fast"}],
)
def test_kv_made_otherwise_has_another_name(change: dict[str, Any]) -> None:
    """Whatever decides the values of KV is in the root of its block hashes, so nothing of it is ever shared."""
    config = WeightConfig(device="cpu")
    name = kv_namespace(TINY_MODEL, config, 16)
    assert kv_namespace(TINY_MODEL, replace(config, **change), 16) != name
    assert kv_namespace(TINY_MODEL, config, 32) != name
