"""What the compiler makes of the Triton kernels for an H200; needs none."""

from typing import Any

MAX_SHARED_BYTES = 227 * 1024


def test_no_kernel_spills_or_overfills_shared_memory(rows: list[dict[str, Any]]) -> None:
    assert rows
    assert [row for row in rows if row["spills"] or row["shared_bytes"] > MAX_SHARED_BYTES] == []


def test_the_kernels_of_rows_are_compiled_once_and_load_16_bytes_at_a_time(rows: list[dict[str, Any]]) -> None:
    """Once for all batch sizes: another compilation could sum in another order."""
    kernels = [row for row in rows if row["kernel"] in ("add_norm_kernel", "rope_store_kernel", "silu_mul_kernel")]
    assert [row["case"] for row in kernels] == ["add_norm 4096 T=1", "rope_store 32/8x128 T=1", "silu_mul 14336 T=1"]
    assert all(row["loads_16_bytes"] >= 6 for row in kernels)
