"""What becomes of a report: printed, written, judged."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cluster.loadtest.plot import report_svg
from cluster.loadtest.report import problem
from cluster.loadtest.table import table


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where it goes."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report there, as JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a plot of the times to first token there")


def tell(written: dict[str, Any], options: argparse.Namespace) -> int:
    """Print and write a report as the options have it; returns the exit status, 1 where it was not good enough."""
    text = json.dumps(written, indent=2)
    print(text if options.json else table(written), flush=True)
    if options.out:
        options.out.write_text(text + "\n", "utf-8")
    if options.svg:
        options.svg.write_text(report_svg(written), "utf-8")
    if why := problem(written):
        print(why, file=sys.stderr)
    return 1 if why else 0
