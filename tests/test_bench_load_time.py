"""Loading keeps to its bound of memory: what is held at the end, and two of the largest tensors."""

from pathlib import Path

import pytest
import torch

from bench.load_time import LoadTime, load_elsewhere
from bench.random_checkpoint import save_bfloat16, save_packed
from bench.random_model import llama_spec
from workers.weights.open_checkpoint import open_checkpoint, read_spec

# A large embedding, and a layer whose float32 copies would be larger still.
SPEC = llama_spec(1, 1024, 8192, 16, 4, 16384, 512)


@pytest.mark.parametrize("packed", [False, True], ids=["bfloat16", "int4"])
def test_memory_stays_within_two_tensors_of_what_is_held(tmp_path: Path, packed: bool) -> None:
    """Measured as the largest resident set of a process that does nothing else; the least of three, for malloc keeps
    now and then what was freed."""
    path = save_packed(tmp_path / "m", SPEC, 64) if packed else save_bfloat16(tmp_path / "m", SPEC)
    load = min((load_elsewhere(path, num_threads=1) for _ in range(3)), key=lambda load: load.peak_bytes)
    assert load.largest_bytes == 16384 * 1024 * 2
    assert load.held_bytes < load.peak_bytes < load.held_bytes + 2 * load.largest_bytes
    assert load.held_bytes < load.file_bytes * (1.05 if packed else 0.7)


def test_both_checkpoints_hold_the_same_matrices(tmp_path: Path) -> None:
    spec = llama_spec(1, 64, 128, 4, 2, 256, 512)
    paths = [save_bfloat16(tmp_path / "floats", spec), save_packed(tmp_path / "packed", spec, 32)]
    found = [
        open_checkpoint(path, read_spec(path)).read("model.layers.0.mlp.up_proj.weight", (128, 64)).float()
        for path in paths
    ]
    torch.testing.assert_close(*found, rtol=0, atol=0.05)


def test_speed_is_bytes_of_the_files_by_second() -> None:
    assert LoadTime(0.5, 2 * 10**9, 0, 0, 0).gb_per_s == 4.0
