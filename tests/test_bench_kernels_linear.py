"""What the compiler makes of the linear kernels for an H200: what their speed rests on, seen without one."""

from typing import Any

import pytest

WHOLE = "int4_linear 4096x4096 g128 M=2048"  # whose programs add their ranges up themselves, reading what they wrote


@pytest.fixture(scope="module")
def int4_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the int4 products."""
    return [row for row in rows if row["kernel"] == "int4_kernel"]


def test_int4_weights_are_multiplied_from_registers(int4_rows: list[dict[str, Any]]) -> None:
    """From registers, RS, as they are taken apart, with no way through shared memory in between."""
    kinds = {row["wgmma"] for row in int4_rows}
    assert kinds == {f"m64n{rows}k16 RS" for rows in (16, 32, 64, 128)}
    assert [row for row in int4_rows if row["mma_sync"]] == []
    assert [row["case"] for row in int4_rows if row["stores_before_product"]] == [WHOLE]  # a sum's, behind its loop


def test_int4_results_change_threads_once(int4_rows: list[dict[str, Any]]) -> None:
    """A thread's sums lie in 8 by 8 patches; they are exchanged after the loop, once, to be written by whole lines, or
    where gate meets up. Within the loop nothing moves: loads would have to be waited for."""
    assert {row["layout_conversions"] for row in int4_rows if row["case"] != WHOLE} == {1}
    assert {row["layout_conversions"] for row in int4_rows if row["case"] == WHOLE} == {2}


def test_weights_are_loaded_16_bytes_at_a_time(rows: list[dict[str, Any]]) -> None:
    """Each is loaded in the prologue as often as there are stages less one, and once in the loop."""
    loads = {row["case"]: row["loads_16_bytes"] for row in rows if row["kernel"] in ("int4_kernel", "dense_kernel")}
    assert loads
    assert min(loads.values()) >= 4


def test_two_programs_of_64_rows_share_an_sm(int4_rows: list[dict[str, Any]]) -> None:
    """By registers, 65536 an SM, and by shared memory, 227 KiB: one multiplies while the other takes weights apart."""
    for row in int4_rows:
        if "m64n128" not in row["wgmma"] and row["case"] != WHOLE:
            assert row["registers"] // 8 * 8 * row["threads"] <= 65536 // 2, row
            assert 2 * (row["shared_bytes"] + 1024) <= 227 * 1024, row


def test_a_dense_weight_is_multiplied_from_shared_memory(rows: list[dict[str, Any]]) -> None:
    dense = [row for row in rows if row["kernel"] == "dense_kernel"]
    assert {row["wgmma"] for row in dense} == {"m64n16k16 SS", "m64n64k16 SS"}
    assert [row for row in dense if row["mma_sync"] or row["stores_before_product"]] == []
