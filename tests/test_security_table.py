"""docs/security.md names a test for each class of attack, and the tests are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| (S\d+) \|(.*)\|$", (ROOT / "docs" / "security.md").read_text("utf-8"), re.MULTILINE)


def test_every_class_has_a_row() -> None:
    assert [name for name, _ in ROWS] == [f"S{number}" for number in range(1, 29)]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_every_test_that_it_names_is_there(name: str, row: str) -> None:
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", row)
    assert named, f"{name} names no test"
    for file, function in named:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in defined if function else any(one.startswith("test_") for one in defined), (
            f"{file}::{function}"
        )
