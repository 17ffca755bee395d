"""Names: five short ones of ours, one of which Hugging Face uses too."""

import ast
import importlib
import importlib.metadata
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["cluster", "kernels", "radix", "router", "workers"]


@pytest.mark.parametrize("name", PACKAGES)
def test_the_package_imported_is_ours(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None, f"{name} has no __init__.py"
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


def test_hugging_face_kernels_is_not_installed() -> None:
    """It is imported as `kernels` too; which of the two won would depend on the order of sys.path."""
    installed = {(distribution.metadata["Name"] or "").lower() for distribution in importlib.metadata.distributions()}
    assert "kernels" not in installed
    assert "torch" in installed, "the list of distributions is not what it seems"


def test_our_kernels_package_holds_a_docstring_only() -> None:
    body = ast.parse((ROOT / "kernels" / "__init__.py").read_text("utf-8")).body
    assert [type(statement) for statement in body] == [ast.Expr]
    assert ast.get_docstring(ast.Module(body, [])) is not None


def test_every_folder_of_sources_is_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert sorted(listed) == sorted(folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders)
