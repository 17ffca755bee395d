"""Our reader of safetensors headers against the format's own library: what one of them refuses ours refuses too."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tests.mutations import draw_mutation, mutated
from tests.tiny_checkpoint import SINGLE, save_tiny
from workers.models.spec import ModelError
from workers.weights.model_file import find_file
from workers.weights.safetensors_header import DTYPES, read_header

SHAPES = st.lists(st.integers(0, 5), max_size=4)
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name.isprintable() and name != "__metadata__")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES), max_size=6), st.integers(0, 2**32))
def test_what_the_library_writes_is_read_back(
    tmp_path: Path, chosen: dict[str, tuple[str, list[int]]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: random_tensor(DTYPES[dtype], shape, generator) for name, (dtype, shape) in chosen.items()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_header(find_file(tmp_path, "x.safetensors"))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        read = found[name].read()
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))


def random_tensor(dtype: torch.dtype, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    """Any bytes, but for truth values."""
    size = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    return torch.randint(0, high, (size,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)


def agrees(path: Path) -> bool:
    """Whether our reader takes a file. Then the library must do so too, and find the same in it."""
    try:
        found = read_header(find_file(path.parent, path.name))
    except ModelError:
        return False
    with safe_open(path, framework="pt") as file:
        assert found.keys() == set(file.keys())
        for name, tensor in found.items():
            assert list(tensor.shape) == file.get_slice(name).get_shape()
            assert torch.equal(tensor.read().view(torch.uint8), file.get_tensor(name).view(torch.uint8))
    return True


def test_a_mutated_header_that_is_taken_is_taken_by_the_library_too(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "model") / SINGLE
    good = path.read_bytes()
    header_end = 8 + int.from_bytes(good[:8], "little")
    taken = 0
    for seed in range(600):
        mutation = draw_mutation(good, random.Random(seed), 0, header_end)
        with mutated(path, mutation, good):
            taken += agrees(path)
    assert 10 < taken < 300


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[false,4]}}',
        b'{"a":{"dtype":"F32","shape":[1]}}',
        b"[]",
        b"\xff\xfe",
        b"[" * 5000,
        b"",
    ],
)
def test_a_header_that_describes_other_bytes_is_refused_by_both(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelError, match=r"x\.safetensors is damaged: .*; download it again"):
        read_header(find_file(tmp_path, path.name))
    with pytest.raises(SafetensorError), safe_open(path, framework="pt"):
        pass


@pytest.mark.parametrize("length", [2**63, 100_000_001, 13])
def test_a_length_beyond_the_file_or_the_limit_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}          ")
    with pytest.raises(ModelError, match=rf"its header is said to have {length} bytes, but the whole file has 20"):
        read_header(find_file(tmp_path, "x.safetensors"))
