"""Triton kernels: `--aot` compiles them for sm_90a without a GPU and tells what came out."""

import argparse
import json
import sys

from bench.kernels import paged_attention
from bench.kernels.aot import Row, aot_rows
from bench.kernels.case import KernelCase


def all_cases() -> list[KernelCase]:
    """Every kernel at the sizes of docs/performance.md."""
    return paged_attention.cases()


def print_table(rows: list[Row]) -> None:
    """Columns as wide as their widest entry."""
    table = [list(rows[0]), *[[str(value) for value in row.values()] for row in rows]] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(entry.ljust(width) for entry, width in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--aot", action="store_true", help="compile only, for sm_90a")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if not arguments.aot:
        sys.exit("there is no GPU to time the kernels on; --aot compiles them without one")
    rows = aot_rows(all_cases())
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()
