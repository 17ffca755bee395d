"""What the compiler makes of the Triton kernels for an H200; needs none."""

from typing import Any

MAX_SHARED_BYTES = 227 * 1024


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


def attention(rows: list[dict[str, Any]], kernel: str, numerics: str) -> list[dict[str, Any]]:
    found = [row for row in rows if row["kernel"] == kernel and row["case"].startswith("paged_attention")]
    return [row for row in found if row["case"].endswith(numerics)]


def test_strict_attention_multiplies_by_the_same_instructions_in_decode_and_prefill(rows: list[dict[str, Any]]) -> None:
    """64 rows a warp group; the weights go from registers to the second product (RS)."""
    found = attention(rows, "attend_segments", "strict") + attention(rows, "attend_tiles", "strict")
    assert {row["kernel"] for row in found} == {"attend_segments", "attend_tiles"}
    assert {(row["wgmma"], row["mma_sync"]) for row in found} == {("m64n128k16 RS, m64n64k16 SS", 0)}


def test_fast_attention_multiplies_16_rows_in_decode_and_64_in_prefill(rows: list[dict[str, Any]]) -> None:
    segments, prefill = attention(rows, "attend_segments", "fast"), attention(rows, "attend_tiles", "fast")
    decode = [row for row in segments if "decode" in row["case"]]
    assert {(row["wgmma"], row["mma_sync"] > 0) for row in decode} == {("", True)}
    assert {(row["wgmma"], row["mma_sync"]) for row in prefill} == {("m64n128k16 RS, m64n64k16 SS", 0)}


def test_attention_copies_k_and_v_while_it_computes(rows: list[dict[str, Any]]) -> None:
    """Two tiles of each before a loop and one in it; `attend_tiles` has two loops. The blocks' ids are not copied."""
    for numerics in ("strict", "fast"):
        assert {row["async_copies"] for row in attention(rows, "attend_segments", numerics)} == {6}
        assert {row["async_copies"] for row in attention(rows, "attend_tiles", numerics)} == {12}
