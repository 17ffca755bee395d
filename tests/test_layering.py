"""Who may import whom. Read from the sources, so that an import inside a function counts too."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "radix": set(),
    "workers": {"kernels", "radix"},
    "router": {"radix"},
    "cluster": {"router", "workers", "radix"},
}
OURS = {*ALLOWED, "tests", "bench", "models"}
ONLY_UNDER = dict.fromkeys(["ray", "fastapi", "pydantic", "grpc", "starlette", "uvicorn", "opentelemetry"], "cluster/")
ONLY_UNDER["triton"] = "kernels/triton_ops/"
TRAVELS_ALONE = "cluster/loadtest/"  # to machines that have Python and nothing else
WITHOUT_TORCH = (
    "radix/",
    "router/",
    "workers/config.py",
    "workers/request.py",
    "workers/sampling_params.py",
    "workers/validation.py",
)


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, at any depth; "." for a relative one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            name = node.args[0] if node.args else None
            dynamic = isinstance(name, ast.Constant) and isinstance(name.value, str)
            yield node.lineno, str(name.value).partition(".")[0] if dynamic else "?"  # type: ignore[union-attr]


def forbidden(path: str, source: str) -> list[str]:
    """The imports of one file that the house rules forbid; `path` is relative to the repository."""
    package = path.partition("/")[0]
    found = []
    for line, name in imports_of(source):
        wrong_arrow = name in OURS - ALLOWED[package] - {package}
        wrong_place = name in ONLY_UNDER and not path.startswith(ONLY_UNDER[name])
        wrong_torch = name == "torch" and path.startswith(WITHOUT_TORCH)
        wrong_company = path.startswith(TRAVELS_ALONE) and name not in {"cluster", *sys.stdlib_module_names}
        if wrong_arrow or wrong_place or wrong_torch or wrong_company or name in (".", "?"):
            found.append(f"{path}:{line} imports {name}")
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_only_allowed_arrows(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ holds no sources: the rule would hold of nothing"
    problems = [p for file in files for p in forbidden(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))]
    assert problems == []


PLANTED = [
    ("kernels/int4.py", "import radix.tree"),
    ("radix/tree.py", "from workers.config import CacheConfig"),
    ("workers/engine/engine.py", "def f():\n    from router import scoring"),
    ("workers/engine/engine.py", "import tests.helpers"),
    ("router/router.py", "import os, kernels"),
    ("cluster/app.py", "from kernels.int4 import quantize"),
    ("workers/async_worker.py", "import ray"),
    ("workers/tokenizer.py", "try:\n    import pydantic.v1\nexcept ImportError:\n    pass"),
    ("router/router.py", "from grpc import aio"),
    ("workers/pools/services.py", "from opentelemetry import trace"),
    ("kernels/int4_linear.py", "import triton.language as tl"),
    ("cluster/app.py", "import triton"),
    ("radix/tree.py", "if 1:\n    import torch"),
    ("workers/config.py", "from torch import nn"),
    ("workers/request.py", "import torch.nn.functional as F"),
    ("workers/engine/engine.py", "from . import scheduler"),
    ("radix/tree.py", "import importlib\nimportlib.import_module('torch.nn')"),
    ("radix/tree.py", "__import__(name)"),
    ("cluster/loadtest/client.py", "import aiohttp"),
    ("cluster/loadtest/profiles/unique.py", "from workers.tokenizer import Tokenizer"),
]


@pytest.mark.parametrize(("path", "source"), PLANTED)
def test_a_planted_import_is_found(path: str, source: str) -> None:
    assert len(forbidden(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("workers/engine/engine.py", "import torch, kernels.int4\nfrom radix.tree import RadixTree"),
        ("cluster/app.py", "import ray, fastapi\nfrom router import scoring\nfrom workers import config"),
        ("kernels/triton_ops/int4.py", "import triton"),
        ("workers/pools/x.py", "# import ray\nx = 'import ray'\nfrom raylib import y\nfrom workers.config import z"),
    ],
)
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    assert forbidden(path, source) == []
