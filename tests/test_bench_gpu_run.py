"""The driver of everything that runs on a GPU: parts that fail or hang, and a machine that has next to nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_run
from bench.gpu_run import (
    KEPT_S,
    Part,
    Result,
    exit_status,
    kernel_parts,
    parts_of_tests,
    run_all,
    run_in_turn,
    run_part,
    run_side_by_side,
    write_log,
)

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = ("ray", "pygtrie", "openai", "fastapi", "grpc", "pydantic", "starlette")
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""


def code(name: str, text: str) -> Part:
    return Part(name, ("-c", text))


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without Ray, pygtrie and what the API needs, for children's children too."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    return os.environ | {"PYTHONPATH": str(tmp_path)}


def test_a_part_that_ends_tells_its_status_and_output() -> None:
    good = run_part(code("good", "print('figures')"), 30)
    assert (good.status, good.output, good.verdict) == (0, "figures\n", "ok")
    bad = run_part(code("bad", "import sys; print('half', flush=True); sys.exit('no')"), 30)
    assert (bad.status, bad.output, bad.verdict) == (1, "half\nno\n", "FAILED (1)")
    assert (good.last_line, bad.last_line) == ("figures", "no")


def test_a_part_that_hangs_is_stopped_with_its_children_and_its_output_is_kept() -> None:
    begin_s = time.monotonic()
    child = "import time; time.sleep(60)"
    text = f"import subprocess, sys; print('begun'); subprocess.run([sys.executable, '-c', {child!r}])"
    result = run_part(code("hangs", text), 2)
    assert (result.status, result.verdict, result.output) == (None, "TIMED OUT", "begun\n")
    assert time.monotonic() - begin_s < 20


def test_one_that_hangs_leaves_time_to_those_after_it() -> None:
    parts = [code("hangs", "import time; time.sleep(60)"), code("good", "print(1)")]
    results = run_in_turn(parts, time.monotonic() + 6)
    assert [result.verdict for result in results] == ["TIMED OUT", "ok"]
    assert results[0].seconds < 5
    assert (exit_status(results), exit_status(results[1:])) == (1, 0)


def test_each_of_several_leaves_time_to_all_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def take(part: Part, limit_s: float) -> Result:
        limits.append(limit_s)
        return Result(part, 0, 0.0, "")

    monkeypatch.setattr(gpu_run, "run_part", take)
    parts = [code(str(index), "") for index in range(4)]
    run_in_turn(parts, time.monotonic() + 200)
    assert limits == pytest.approx([200 - KEPT_S * following for following in (3, 2, 1, 0)], abs=1)
    limits.clear()
    run_in_turn(parts, time.monotonic() + 20)
    assert limits == pytest.approx([10, 10, 10, 20], abs=1), "half at least, where there is little"


def test_no_test_file_is_forgotten_or_run_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names: list[str] = []

    def take(part: Part, limit_s: float) -> Result:
        names.append(part.name)
        return Result(part, 0, 0.0, "")

    monkeypatch.setattr(gpu_run, "run_part", take)
    run_all(tmp_path, 10)
    files = [path.stem for pattern in ("test_triton_*.py", "test_gpu_*.py") for path in (ROOT / "tests").glob(pattern)]
    assert sorted(name for name in names if name.startswith("test_")) == sorted(files)


def test_parts_side_by_side_keep_their_order() -> None:
    parts = [code(str(index), f"print({index})") for index in range(3)]
    results = run_side_by_side(parts, time.monotonic() + 60, workers=2)
    assert [result.output for result in results] == ["0\n", "1\n", "2\n"]


def test_the_log_names_each_part(tmp_path: Path) -> None:
    write_log(tmp_path / "log", [run_part(code("a", "print(1)"), 30), run_part(code("b", "print(2)"), 30)])
    assert (tmp_path / "log").read_text() == "==== a: ok\n1\n\n==== b: ok\n2\n\n"


def test_each_operation_is_a_part_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "rope T=1\\nrope T=64\\nint4_linear 8x8 M=1"
    monkeypatch.setattr(gpu_run, "run_part", lambda part, limit_s: run_part(code("list", f"print('{names}')"), 30))
    parts = kernel_parts(Path("out.json"))
    assert [part.name for part in parts] == ["kernels: rope", "kernels: int4_linear"]
    assert parts[0].arguments == ("-m", "bench.kernels", "--out", "out.json", "--only", "rope ")


def test_kernels_that_cannot_even_be_listed_are_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run, "run_part", lambda part, limit_s: run_part(code("list", "raise OSError"), 30))
    assert [part.name for part in kernel_parts(Path("out.json"))] == ["kernels"]


def test_what_runs_on_a_gpu_imports_on_a_bare_machine(bare: dict[str, str]) -> None:
    probe = subprocess.run([sys.executable, "-c", "import pygtrie"], env=bare, capture_output=True, text=True)
    assert "pygtrie is blocked" in probe.stderr, "the test tests nothing"
    files = [part.arguments[-1] for part in [*parts_of_tests("test_triton_*.py"), *parts_of_tests("test_gpu_*.py")]]
    assert files
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *files]
    collected = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert collected.returncode == 0, collected.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmarks_say_so_and_the_run_fails(bare: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text("{}")  # of an earlier run
    script = (
        "import sys; from bench import gpu_run; gpu_run.parts_of_tests = lambda pattern: []; sys.exit(gpu_run.main())"
    )
    command = [sys.executable, "-c", script, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "there is no GPU to time the kernels on" in (tmp_path / "kernels.log").read_text()
    assert "there is no GPU to run the engine on" in (tmp_path / "engine.log").read_text()
    assert "no figures" in done.stdout
    assert "FAILED (1)" in done.stdout
    assert not (tmp_path / "kernels.json").exists()
