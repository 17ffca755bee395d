"""Fixtures that several test files share: random little checkpoints in Hugging Face's own format."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.helpers import edit_json, save_random_llama

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel's module is imported

# The matrices are tiny: on a busy machine a second thread is mostly waited for. Tests of threads ask for theirs.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

# The same examples every time, and no time limit for one: a busy machine is not a bug.
settings.register_profile("raydix", derandomize=True, deadline=None)
settings.load_profile("raydix")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """What `python -m bench.kernels --aot --json` prints: a row for each Triton kernel, compiled for an H200."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.kernels", "--aot", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def untied_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with an output head of its own and no end-of-sequence token. Do not write to it."""
    return save_random_llama(tmp_path_factory.mktemp("untied"), num_layers=2, tied=False)


@pytest.fixture(scope="session")
def tied_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three layers whose embedding is its output head. Do not write to it."""
    return save_random_llama(tmp_path_factory.mktemp("tied"), num_layers=3, tied=True)


@pytest.fixture
def model_copy(untied_dir: Path, tmp_path: Path) -> Path:
    """A copy of the untied checkpoint to damage."""
    return Path(shutil.copytree(untied_dir, tmp_path / "model"))


@pytest.fixture
def eos_dir(model_copy: Path) -> Path:
    """The untied checkpoint with half of its tokens ending a sequence, so that many end early."""
    edit_json(model_copy / "config.json", eos_token_id=list(range(0, 256, 2)))
    return model_copy


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: the matrices are tiny, and on a busy machine a second one is mostly waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
