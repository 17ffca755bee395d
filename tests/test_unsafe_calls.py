"""Nothing of ours turns bytes into code. Read from the sources, as `test_layering.py` does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "radix", "workers", "router", "cluster")
MODULES = {"pickle", "_pickle", "cPickle", "marshal", "dill", "cloudpickle", "shelve", "joblib", "jsonpickle"}
CALLS = {
    *("eval", "exec", "compile", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "torch.jit.load"),
    *("os.system", "os.popen", "os.execv", "pty.spawn", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
ARGUMENTS = {"trust_remote_code": True, "allow_pickle": True, "shell": True}


def unsafe(source: str) -> Iterator[str]:
    """Every import, name and argument in a source that runs what it is given."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            yield from (name for name in names if module.partition(".")[0] in MODULES or name in CALLS)
        elif isinstance(node, ast.Attribute | ast.Name):
            if ast.unparse(node) in CALLS:
                yield ast.unparse(node)
        elif isinstance(node, ast.keyword) and node.arg in ARGUMENTS and not is_false(node.value):
            yield f"{node.arg}={ast.unparse(node.value)}"


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_that_is_read_is_run(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [f"{file.relative_to(ROOT)}: {name}" for file in files for name in unsafe(file.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, dill.source",
        "from pickle import loads as read",
        "def f():\n    from torch import load",
        "x = torch.load(path, weights_only=True)",
        "read = yaml.load",
        "eval('1')",
        "np.load(path, allow_pickle=True)",
        "AutoTokenizer.from_pretrained(d, trust_remote_code=trust)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_what_is_planted_is_found(source: str) -> None:
    assert len(list(unsafe(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import pickleball, json",
        "yaml.safe_load(text)",
        "load_file(path)",
        "model.eval()",
        "f(trust_remote_code=False)",
        "re.compile(pattern)",
        "torch.loads",
    ],
)
def test_what_is_safe_is_not_found(source: str) -> None:
    assert list(unsafe(source)) == []
