"""Compiles the operators once per machine, and keeps the library in the user's cache directory."""

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

SWITCH = "RAYDIX_CPU_OPS"
SOURCE_DIR = Path(__file__).parent
SOURCE = SOURCE_DIR / "ops.cpp"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-w")
INSTRUCTION_SETS = {
    "avx512_bf16": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mavx512vnni", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
}


def instruction_set() -> str | None:
    """The best of `INSTRUCTION_SETS` that this CPU has, or what RAYDIX_CPU_OPS names ("off" for none); None for none.

    Raises ValueError where the variable names something else.
    """
    wanted = os.environ.get(SWITCH)
    if wanted is None:
        return next((name for name in INSTRUCTION_SETS if is_supported(name)), None)
    if wanted not in (*INSTRUCTION_SETS, "off"):
        raise ValueError(f"{SWITCH} is {wanted!r}; it must be one of {', '.join(INSTRUCTION_SETS)} or off")
    return wanted if wanted != "off" and is_supported(wanted) else None


def is_supported(instructions: str) -> bool:
    """Whether this CPU has one of `INSTRUCTION_SETS`."""
    if instructions == "avx512_bf16":
        return torch.cpu._is_avx512_bf16_supported()
    return torch.cpu._is_avx2_supported()


def build_library(instructions: str | None) -> Path | None:
    """The path of the compiled operators, or None, with a line in the log that says why."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if instructions is None or compiler is None:
        no_cpu = f"{SWITCH} or this CPU does not allow them (AVX2 is needed)"
        missing = no_cpu if instructions is None else "no C++ compiler was found (install g++ or set CXX)"
        logger.warning("CPU operators are off: %s. torch's own, slower ones are used instead", missing)
        return None
    path = cache_dir() / f"cpu_ops-{instructions}-{fingerprint(compiler, instructions)}.so"
    try:
        with (path.parent / "build.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers that start together compile once
            if not path.exists():
                logger.info("compiling the CPU operators for %s with %s", instructions, compiler)
                compile_library(compiler, instructions, path)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else error
        logger.warning("CPU operators are off: compiling them failed: %s", reason)
        return None
    return path


def compile_library(compiler: str, instructions: str, path: Path) -> None:
    """Compile, and link to torch's own OpenMP, so that there is one pool of threads. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        compiled, linked = f"{scratch}/ops.o", f"{scratch}/ops.so"
        commands = [
            [compiler, *FLAGS, *INSTRUCTION_SETS[instructions], "-c", str(SOURCE), "-o", compiled],
            [compiler, "-shared", "-o", linked, compiled, *openmp_library()],
        ]
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        os.replace(linked, path)


def openmp_library() -> list[str]:
    """The OpenMP that torch brought along, or the compiler's where torch uses that."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [str(bundled[0])] if bundled else ["-fopenmp"]


def fingerprint(compiler: str, instructions: str) -> str:
    """Names everything that the library depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True).stdout
    digest = hashlib.sha256(repr((compiler, version, FLAGS, INSTRUCTION_SETS[instructions], torch.__file__)).encode())
    for path in sorted([*SOURCE_DIR.glob("*.cpp"), *SOURCE_DIR.glob("*.h")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_dir() -> Path:
    """Where compiled operators are kept; a temporary directory where the user's cache cannot be written."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raydix"
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except (OSError, RuntimeError):  # the latter: a user without a home
        pass
    return Path(tempfile.mkdtemp(prefix="raydix-"))
