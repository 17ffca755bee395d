"""The operators are compiled once, for the CPU at hand, and their absence is a line in the log, not an error."""

import ctypes
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.cpu_ops.build import (
    FLAGS,
    INSTRUCTION_SETS,
    SOURCE,
    build_library,
    instruction_set,
    is_supported,
)
from kernels.cpu_ops.loader import load_library

ROOT = Path(__file__).resolve().parents[1]
needs_operators = pytest.mark.skipif(load_library() is None, reason="no C++ compiler, or a CPU without AVX2")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "raydix"


@needs_operators
def test_the_library_is_compiled_once_and_kept(cache: Path) -> None:
    path = build_library(instruction_set())
    assert path is not None
    assert path.parent == cache
    ctypes.CDLL(str(path))
    written = path.stat().st_mtime_ns
    assert build_library(instruction_set()) == path
    assert path.stat().st_mtime_ns == written
    assert sorted(file.name for file in cache.iterdir()) == sorted(["build.lock", path.name])


@needs_operators
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_the_sources_give_no_warning(instructions: str, tmp_path: Path) -> None:
    """But for three that GCC 12's own headers and the 64-byte vectors of its extension give."""
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    flags = [flag for flag in FLAGS if flag != "-w"]
    command = ["g++", *flags, *INSTRUCTION_SETS[instructions], *warnings, "-c", str(SOURCE)]
    result = subprocess.run([*command, "-o", str(tmp_path / "object")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:4000]


def test_without_a_compiler_there_is_a_line_in_the_log(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build_library("avx2") is None
    assert "no C++ compiler was found (install g++ or set CXX)" in caplog.text
    assert not cache.exists()


@needs_operators
def test_a_compiler_that_fails_is_quoted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho its reason >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with caplog.at_level(logging.WARNING):
        assert build_library("avx2") is None
    assert "its reason" in caplog.text
    assert [file.name for file in cache.iterdir()] == ["build.lock"]


def test_the_switch_turns_them_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("RAYDIX_CPU_OPS", "off")
    assert instruction_set() is None
    assert build_library(None) is None
    assert "RAYDIX_CPU_OPS" in caplog.text
    monkeypatch.setenv("RAYDIX_CPU_OPS", "mmx")
    with pytest.raises(ValueError, match="RAYDIX_CPU_OPS is 'mmx'; it must be one of avx512_bf16, avx2 or off"):
        instruction_set()


@needs_operators
@pytest.mark.skipif(not is_supported("avx512_bf16"), reason="this CPU has AVX2 only, which the other tests then use")
def test_the_avx2_operators_pass_the_same_tests() -> None:
    """In a process of its own: one process has one library."""
    files = [f"tests/test_kernels_cpu_{name}.py" for name in ("linear", "attention", "layers")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = os.environ | {"RAYDIX_CPU_OPS": "avx2"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout
