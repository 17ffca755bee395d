"""`raydix loadtest`: its options. What it does is imported when it is called for, for it imports Ray."""

import argparse
import os
from pathlib import Path

from cluster.loadtest.output import add_output_options
from cluster.loadtest.settings import add_options

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class JobError(Exception):
    """The job could not be submitted, or did not bring a report."""


def add_loadtest_options(parser: argparse.ArgumentParser) -> None:
    """The client's options, and where it is to run."""
    parser.add_argument("--address", help="the cluster's job server (RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)")
    add_options(parser)
    add_output_options(parser)
    parser.set_defaults(command=run_loadtest)


def run_loadtest(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 where the load was not borne as asked. Raises JobError or SettingsError."""
    use_token()
    from cluster.commands.load_job import run_as_job  # imports Ray, which reads the environment

    return run_as_job(options)


def use_token() -> None:
    """Have Ray's clients send a token where there is one: clusters of `ray.init` want it, and without this variable
    clients of Ray 2.60 do not send it."""
    default = Path.home() / ".ray" / "auth_token"
    if default.is_file() or any(os.environ.get(name) for name in TOKEN_VARIABLES):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
