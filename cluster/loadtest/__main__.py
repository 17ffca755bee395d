"""Load on an OpenAI API, from here.

python -m cluster.loadtest --profile unique|shared-prefix|multi-turn|trace|rate-sweep|cancellations
                           [--url http://127.0.0.1:8000] [--json] [--out FILE] [--svg FILE] ...

`raydix loadtest` does the same as a Ray job. The exit status is 1 where no request was answered or goodput is below
--min-goodput, 2 where there is nothing to measure.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.loadtest.client import NoServer
from cluster.loadtest.plot import report_svg
from cluster.loadtest.report import problem, report
from cluster.loadtest.run import run
from cluster.loadtest.settings import SettingsError, add_options, settings_of
from cluster.loadtest.table import table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_output_options(parser)
    options = parser.parse_args(arguments)
    try:
        settings = settings_of(options)
        return tell(report(asyncio.run(run(settings)), settings), options)
    except (NoServer, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """What becomes of the report."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report there, as JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a plot of the times to first token there")


def tell(written: dict[str, Any], options: argparse.Namespace) -> int:
    """Print and write a report as the options have it; returns the exit status."""
    text = json.dumps(written, indent=2)
    if options.out:
        options.out.write_text(text + "\n", "utf-8")
    if options.svg:
        options.svg.write_text(report_svg(written), "utf-8")
    print(text if options.json else table(written))
    if why := problem(written):
        print(why, file=sys.stderr)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
