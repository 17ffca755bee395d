"""Compiling Triton kernels for an H200 on a machine that has none: launchers run as they are, launches do nothing.

What is compiled is therefore exactly what the launchers would launch, specialisations of their arguments included.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

MAX_SHARED_BYTES = 227 * 1024  # of one program on Hopper
HOPPER = GPUTarget("cuda", 90, 32)


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel as it was compiled for sm_90a.

    Attributes:
        name: of the kernel's function.
        registers: of one thread.
        spill_bytes: what a thread keeps in local memory because its registers are full.
        shared_bytes: of one program.
    """

    name: str
    ptx: str
    ttgir: str
    sass: str
    registers: int
    spill_bytes: int
    shared_bytes: int


class CompileOnlyDriver:
    """Takes the place of CUDA's driver: knows an H200's limits, loads nothing and launches nothing."""

    def __init__(self) -> None:
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        """Hopper."""
        return HOPPER

    def get_current_device(self) -> int:
        """One device, number 0."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """One stream, number 0."""
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        """What Triton asks of a device before it launches."""
        return {"max_shared_mem": MAX_SHARED_BYTES, "multiprocessor_count": 132}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """(module, function, registers, spills, most threads): as after loading."""
        return 1, 1, 0, 0, 1024

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        """A launch that does nothing."""
        return lambda *args: None


@contextmanager
def compile_only() -> Iterator[list[CompiledKernel]]:
    """Inside, launching a kernel compiles it once; yields the list that they are added to."""
    compiled: list[CompiledKernel] = []

    def add(module: Any, function: Any, name: str, metadata_group: dict[str, str], hash: str) -> None:
        compiled.append(read_kernel(name, {Path(file).suffix: Path(file) for file in metadata_group.values()}))

    triton.runtime.driver.set_active(CompileOnlyDriver())
    triton.knobs.runtime.kernel_load_start_hook = add
    try:
        yield compiled
    finally:
        triton.knobs.runtime.kernel_load_start_hook = None
        triton.runtime.driver._active = None  # reset_active() would look for a GPU


def read_kernel(name: str, files: dict[str, Path]) -> CompiledKernel:
    """What the compiler left of one kernel, by the files' suffixes."""
    usage = run_tool("cuobjdump", "-res-usage", str(files[".cubin"]))
    registers, stack, shared = (
        int(found.group(1)) if (found := re.search(rf"{key}:(\d+)", usage)) else 0 for key in ("REG", "STACK", "SHARED")
    )
    metadata = files[".json"].read_text()
    dynamic = re.search(r'"shared": (\d+)', metadata)
    return CompiledKernel(
        name=name,
        ptx=files[".ptx"].read_text(),
        ttgir=files[".ttgir"].read_text(),
        sass=run_tool("nvdisasm", "-c", str(files[".cubin"])),
        registers=registers,
        spill_bytes=stack,
        shared_bytes=max(shared, int(dynamic.group(1)) if dynamic else 0),
    )


def run_tool(tool: str, *arguments: str) -> str:
    """What one of the CUDA tools that come with Triton prints."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout
