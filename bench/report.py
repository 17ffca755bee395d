"""Figures with what they were measured on, in a file and as a table."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kernels.triton_ops.arithmetic import sources_digest

ROOT = Path(__file__).resolve().parents[1]
Row = Mapping[str, Any]


def environment(device: torch.device) -> dict[str, str]:
    """Versions, the device, and which kernels: what must be equal for two figures to be compared."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine(),
        "driver": driver_version() if on_gpu else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "triton": version_of("triton"),
        "kernels_sha256": sources_digest(),
    }


def version_of(package: str) -> str:
    """Of an installed package; empty where it is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def driver_version() -> str:
    """NVIDIA's, as nvidia-smi says; empty where it does not."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return lines[0] if lines else ""


def write_report(path: Path, where: Mapping[str, str], rows: Iterable[Row]) -> None:
    """Put rows into a file, beside those of other cases that were measured on the same: a run of one operation leaves
    the others' figures. Rows of anything else are dropped."""
    kept = {row["case"]: row for row in read_rows(path, where)} | {row["case"]: row for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(json.dumps({"environment": where, "rows": list(kept.values())}, indent=1) + "\n", "utf-8")
    written.replace(path)  # a run that is killed leaves a whole file


def read_rows(path: Path, where: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of a report; none where there is no file, or it was measured elsewhere than `where`."""
    if not path.is_file():
        return []
    report = json.loads(path.read_text("utf-8"))
    rows: list[Row] = report["rows"]
    return rows if where is None or report["environment"] == where else []


def print_table(rows: Sequence[Row]) -> None:
    """Columns as wide as their widest entry; nothing where there are no rows."""
    table = [list(rows[0]), *[[str(value) for value in row.values()] for row in rows]] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(entry.ljust(width) for entry, width in zip(line, widths, strict=True)).rstrip())
