"""Files of figures: rows measured on the same stay beside new ones, rows measured on anything else go."""

import json
from pathlib import Path

import pytest
import torch

from bench.report import environment, print_table, read_rows, write_report

HERE = {"device": "a", "kernels_sha256": "1"}


def test_new_rows_replace_their_own_and_leave_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kernels.json"
    write_report(path, HERE, [{"case": "a", "us": 1}, {"case": "b", "us": 2}])
    write_report(path, HERE, [{"case": "b", "us": 3}, {"case": "c", "us": 4}])
    assert read_rows(path) == [{"case": "a", "us": 1}, {"case": "b", "us": 3}, {"case": "c", "us": 4}]
    assert json.loads(path.read_text())["environment"] == HERE
    assert [file.name for file in path.parent.iterdir()] == ["kernels.json"]


def test_rows_of_other_kernels_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    write_report(path, HERE, [{"case": "a", "us": 1}])
    write_report(path, HERE | {"kernels_sha256": "2"}, [{"case": "b", "us": 2}])
    assert read_rows(path) == [{"case": "b", "us": 2}]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.json") == []


def test_the_environment_names_versions() -> None:
    where = environment(torch.device("cpu"))
    assert where["torch"] == torch.__version__
    assert where["device"]
    assert len(where["kernels_sha256"]) == 64
    assert where["driver"] == ""


def test_columns_are_as_wide_as_their_widest_entry(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"case": "long name", "us": 1}, {"case": "b", "us": 22}])
    assert capsys.readouterr().out == "case       us\nlong name  1\nb          22\n"
    print_table([])
    assert capsys.readouterr().out == ""
