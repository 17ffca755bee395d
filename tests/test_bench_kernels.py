"""What the compiler makes of the Triton kernels for an H200; needs none."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

MAX_SHARED_BYTES = 227 * 1024


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """What `python -m bench.kernels --aot --json` prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.kernels", "--aot", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_no_kernel_spills_or_overfills_shared_memory(rows: list[dict[str, Any]]) -> None:
    assert rows
    assert [row for row in rows if row["spills"] or row["shared_bytes"] > MAX_SHARED_BYTES] == []


def test_the_kernels_of_rows_are_compiled_once_and_load_16_bytes_at_a_time(rows: list[dict[str, Any]]) -> None:
    """Once for all batch sizes: another compilation could sum in another order."""
    names = ("add_norm_kernel", "rope_store_kernel", "silu_mul_kernel", "copy_blocks_kernel", "sample_kernel")
    kernels = [row for row in rows if row["kernel"] in names]
    assert tuple(row["kernel"] for row in kernels) == names
    assert all(row["loads_16_bytes"] >= 4 for row in kernels)
    # Rows go through registers: only one that is written in another dtype, and sums over blocks, cross between threads.
    assert [row["layout_conversions"] for row in kernels[:4]] == [1, 0, 0, 0]
