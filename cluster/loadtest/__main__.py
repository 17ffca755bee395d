"""Load on an OpenAI API, from here.

python -m cluster.loadtest --profile unique|shared-prefix|multi-turn|trace|rate-sweep|cancellations
                           [--url http://127.0.0.1:8000] [--json] [--out FILE] [--svg FILE] ...

`raydix loadtest` does the same as a Ray job. Where the API wants a key, RAYDIX_API_KEY has it. The exit status is 1
where no request was answered or goodput is below --min-goodput, 2 where there is nothing to measure.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from cluster.loadtest.api_key import api_key
from cluster.loadtest.client import NoServer
from cluster.loadtest.output import add_output_options, tell
from cluster.loadtest.report import report
from cluster.loadtest.run import run
from cluster.loadtest.settings import SettingsError, add_options, settings_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        settings = settings_of(options)
        return tell(report(asyncio.run(run(settings, api_key())), settings), options)
    except (NoServer, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_output_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
