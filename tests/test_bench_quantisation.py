"""The table of docs/quantisation.md: its rows, its arithmetic, and that a run goes on where another ended."""

from pathlib import Path

import pytest

from bench.quantisation import Figures, collect, plain_rounding, rows, table
from workers.quantization.options import choose_options

ROUNDING, GPTQ = "rtn-4-g128-asymmetric-minmax", "gptq-4-g128-asymmetric-mse"


def test_every_method_is_there_in_three_group_sizes_beside_rounding_to_as_many_bytes() -> None:
    names = rows()
    for method in ("rtn", "gptq", "awq"):
        for size in (32, 64, 128):
            assert any(name.startswith(f"{method}-4-g{size}-asymmetric") for name in names)
    assert all(plain_rounding(name) in names or "tensor" in name or "channel" in name for name in names)
    assert plain_rounding(GPTQ) == ROUNDING
    assert names[GPTQ] == choose_options("gptq")


def test_what_is_recovered_is_a_share_of_what_rounding_loses() -> None:
    lines = table(
        {"float": Figures(1.0, 10_000_000), ROUNDING: Figures(1.2, 4_000_000), GPTQ: Figures(1.05, 4_000_000)}
    )
    assert lines[2:] == [
        "| float | 10.00 | 1.0000 | 0.0000 |  |",
        "| rtn 4 g128 asymmetric minmax | 4.00 | 1.2000 | 0.2000 |  |",
        "| gptq 4 g128 asymmetric mse | 4.00 | 1.0500 | 0.0500 | 75% |",
    ]


def test_what_is_there_is_not_made_or_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = collect(tmp_path, 2000, "int8")
    assert set(first) == {"float", "int8-8-channel-symmetric-minmax"}
    eight_bits = first["int8-8-channel-symmetric-minmax"]
    assert eight_bits.bits_per_byte == pytest.approx(first["float"].bits_per_byte, rel=0.01)
    assert eight_bits.weight_bytes < 0.7 * first["float"].weight_bytes
    monkeypatch.setattr("bench.quantisation.measure", None)
    assert collect(tmp_path, 2000, "int8") == first
