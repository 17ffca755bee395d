"""Triton kernels: their speed on a GPU, or with `--aot` what the compiler makes of them for sm_90a, without one."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.goals import summary
from bench.kernels.aot import aot_rows
from bench.kernels.case import KernelCase
from bench.kernels.gpu_timing import time_launches
from bench.kernels.timed_rows import TimedRow, timed_rows
from bench.report import environment, print_table, write_report


def all_cases() -> list[KernelCase]:
    """Every kernel at the sizes of docs/performance.md."""
    return []


def compiled_cases() -> list[KernelCase]:
    """Fewer: every kernel in each way it is compiled that differs in more than numbers."""
    return []


def chosen(cases: Sequence[KernelCase], part: str) -> list[KernelCase]:
    """Those whose name holds `part`. Ends the program where there is none."""
    found = [case for case in cases if part in case.name]
    if part and not found:
        sys.exit(f"no case is called like {part!r}; there are {', '.join(case.name for case in cases) or 'none'}")
    return found


def run_aot(cases: Sequence[KernelCase], as_json: bool) -> None:
    """Compile, and print a row for each kernel."""
    rows = aot_rows(cases)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)


def run_timing(cases: Sequence[KernelCase], as_json: bool, out: Path | None) -> int:
    """Time, and print a row for each case and how the goals stand; the exit status is 1 where something failed."""
    if not torch.cuda.is_available():
        sys.exit("there is no GPU to time the kernels on; --aot compiles them without one")
    device = torch.device("cuda")
    where, rows = environment(device), list[TimedRow]()
    for row in timed_rows(cases, device, time_launches):
        rows.append(row)
        print(f"{len(rows)} of {len(cases)}: {row.case}: {row.us:.2f} us {' '.join(row.errors)}", file=sys.stderr)
        if out is not None:
            write_report(out, where, [asdict(row)])
        torch.cuda.empty_cache()  # raises where a kernel has broken the context: the rows so far are kept
    plain = [asdict(row) for row in rows]
    if as_json:
        print(json.dumps({"environment": where, "rows": plain}, indent=1))
    else:
        print_table([readable(row) for row in rows])
        print()
        print_table([entry for entry in summary(plain) if entry["cases"]])
    return int(any(row.errors for row in rows))


def readable(row: TimedRow) -> dict[str, Any]:
    """A line of the table."""
    others = [f"{name} {baseline.us:.1f} us = {baseline.ratio:.2f}x" for name, baseline in row.baselines.items()]
    return {
        "case": row.case,
        "us": f"{row.us:.2f}",
        "spread": f"{row.spread:.0%}",
        "GB/s": f"{row.gb_per_s:.0f}",
        "TFLOP/s": f"{row.tflops:.1f}",
        "of roofline": f"{row.fraction:.0%}",
        "others": ", ".join([*others, *row.errors]),
    }


def main() -> int:
    """Parse the command line and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--aot", action="store_true", help="compile only, for sm_90a")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="cases whose names hold this")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the timed rows in a file, one by one")
    arguments = parser.parse_args()
    cases = chosen(compiled_cases() if arguments.aot else all_cases(), arguments.only)
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    if arguments.aot:
        run_aot(cases, arguments.json)
        return 0
    return run_timing(cases, arguments.json, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
