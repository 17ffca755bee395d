"""Which device an engine computes on."""

import pytest

from workers.engine.build import pick_device


def test_the_device_named_is_taken() -> None:
    assert pick_device("cpu").type == "cpu"
    assert [str(pick_device(name)) for name in ("cuda", "cuda:0")] == ["cuda", "cuda:0"]
    assert pick_device("auto").type in ("cpu", "cuda")


def test_a_gpu_other_than_the_first_is_refused() -> None:
    """A worker's thread would launch its kernels on the first."""
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=1 and name"):
        pick_device("cuda:1")
