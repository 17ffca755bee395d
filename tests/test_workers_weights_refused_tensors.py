"""Tensors that are not those of the configuration: refused from the headers, before anything is read or allocated."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers import edit_tensors
from tests.quantized_models import gptq, quantize_checkpoint, quantized_from
from tests.tiny_checkpoint import K_PROJ, NORM, SINGLE, save_tiny
from workers.engine.build import check_model
from workers.models.spec import ModelError


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def refused(model_dir: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_model(model_dir)


def test_a_header_of_a_hundred_gigabytes_costs_neither_time_nor_memory(tiny: Path) -> None:
    """C16, C17, C32: headers and configuration are held against each other before anything is allocated."""
    size = 100 * 2**30
    entry = {"dtype": "F16", "shape": [size // 32, 16], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (tiny / SINGLE).open("wb") as file:  # sparse
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    before_bytes, start_s = peak_bytes(), time.perf_counter()
    refused(tiny, rf"model\.embed_tokens\.weight is torch\.float16 \[{size // 32}, 16\], expected floats \[32, 16\]")
    assert time.perf_counter() - start_s < 1
    assert peak_bytes() - before_bytes < 2**25


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda tensors: tensors.update({K_PROJ: tensors[K_PROJ].T.contiguous()}),
            rf"{K_PROJ} is .*\[16, 8\], expected floats \[8, 16\]",
        ),
        (
            lambda tensors: tensors.update({NORM: torch.ones(24)}),
            rf"{NORM} is torch.float32 \[24\], expected floats \[16\]",
        ),
        (lambda tensors: tensors.update({NORM: torch.ones(16, dtype=torch.int32)}), rf"{NORM} is torch.int32"),
        (lambda tensors: tensors.update({NORM: torch.ones(16).to(torch.float8_e4m3fn)}), rf"{NORM} is torch.float8"),
        (lambda tensors: tensors.pop(NORM), rf"lacks {NORM} \[16\]"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "1 tensors have no place in the model .*'extra'"),
    ],
    ids=["transposed", "other hidden size", "integers", "8 bits", "missing", "extra"],
)
def test_a_tensor_that_the_configuration_does_not_describe_is_named(
    tiny: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """C16 to C18."""
    edit_tensors(tiny, edit)
    refused(tiny, message)


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_a_part_of_a_packed_matrix_that_is_missing_is_named_before_anything_is_read(
    tiny: Path, tmp_path: Path, part: str
) -> None:
    """C28."""
    config: dict[str, object] = {"quant_method": "gptq", "bits": 4, "group_size": 16}
    packed, _ = quantize_checkpoint(tiny, tmp_path, gptq, config, lambda weight: quantized_from(weight, 16))
    check_model(packed)
    name = f"model.layers.1.mlp.down_proj.{part}"
    edit_tensors(packed, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"the checkpoint lacks {name}, but has its qweight"):
        check_model(packed)
