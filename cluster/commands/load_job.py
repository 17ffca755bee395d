"""The load client as a Ray job: sent to a cluster, its log followed, its report fetched."""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster import loadtest
from cluster.commands.loadtest import JobError
from cluster.loadtest.api_key import api_key
from cluster.loadtest.job import BEGIN, KEY_FILE, SETTINGS_FILE, report_in
from cluster.loadtest.output import tell
from cluster.loadtest.settings import Settings, settings_of

ENTRYPOINT = "python3 -m cluster.loadtest.job"  # of the cluster: the client needs nothing that is installed
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TRACE_FILE = "trace.jsonl"
STATUS_PERIOD_S = 0.5


def run_as_job(options: argparse.Namespace) -> int:
    """`raydix loadtest`; returns the exit status. Raises JobError or SettingsError."""
    return tell(report_of_job(settings_of(options), api_key(), options.address), options)


def report_of_job(settings: Settings, key: str | None, address: str | None) -> dict[str, Any]:
    """Run a load test on a cluster; see `connect` for the address. Raises JobError."""
    try:
        client = connect(address)
        with job_directory(settings, key) as directory:
            job_id = submit(client, directory, settings)
        return finished(client, job_id)
    except ConnectionError as error:
        raise JobError(f"{error} raydix serve has a job server where it is given a --dashboard-port") from error
    except (OSError, RuntimeError, AuthenticationError) as error:
        raise JobError(str(error)) from error


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the cluster's job server. Raises OSError, RuntimeError or AuthenticationError."""
    if address is not None:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # else Ray would take RAY_ADDRESS over what it is told
    return JobSubmissionClient(DEFAULT_ADDRESS)


def submit(client: JobSubmissionClient, directory: Path, settings: Settings) -> str:
    """The id of a job that holds no CPU: the cluster's are all taken by those whom it measures."""
    metadata = {"profile": settings.profile, "url": settings.url, "seed": str(settings.seed)}
    environment = {"working_dir": str(directory)}
    job_id: str = client.submit_job(
        entrypoint=ENTRYPOINT, runtime_env=environment, metadata=metadata, entrypoint_num_cpus=0
    )
    print(f"submitted {job_id}", file=sys.stderr, flush=True)
    return job_id


@contextlib.contextmanager
def job_directory(settings: Settings, key: str | None = None) -> Iterator[Path]:
    """A folder with the client, its settings, and the trace and the API's key where there are such: all it needs.

    The key is a file because Ray shows a job's command line, its metadata and its variables to who lists jobs.
    """
    with tempfile.TemporaryDirectory(prefix="raydix-load-") as name:
        directory, source = Path(name), Path(loadtest.__file__).parent
        package = directory / "cluster" / "loadtest"
        shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source.parent / "__init__.py", package.parent)
        if settings.trace is not None:
            shutil.copy(settings.trace, directory / TRACE_FILE)
        values = asdict(settings) | {"trace": settings.trace and TRACE_FILE}
        (directory / SETTINGS_FILE).write_text(json.dumps(values), "utf-8")
        if key is not None:
            (directory / KEY_FILE).write_text(key, "ascii")
        yield directory


def finished(client: JobSubmissionClient, job_id: str) -> dict[str, Any]:
    """The report of a job, once it has ended; its progress goes to standard error. Ctrl-C stops it.

    Raises:
        JobError: it ended without a report.
    """
    try:
        with contextlib.suppress(RuntimeError):  # the log's connection was cut: the job goes on
            asyncio.run(follow(client, job_id))
        while not (status := client.get_job_status(job_id)).is_terminal():
            time.sleep(STATUS_PERIOD_S)
    except KeyboardInterrupt:
        client.stop_job(job_id)
        raise
    written = report_in(client.get_job_logs(job_id))
    if written is None:
        raise JobError(f"job {job_id} ended without a report: {ending(client, job_id, status)}")
    return written


async def follow(client: JobSubmissionClient, job_id: str) -> None:
    """Show the log up to the report, which comes in pieces here. Raises RuntimeError where the connection is cut."""
    async with aclosing(client.tail_job_logs(job_id)) as chunks:
        async for chunk in chunks:
            shown, begun, _ = chunk.partition(BEGIN)
            print(shown, end="", file=sys.stderr, flush=True)
            if begun:
                return


def ending(client: JobSubmissionClient, job_id: str, status: JobStatus) -> str:
    """How it ended, in Ray's words."""
    return f"{status.value.lower()}, {client.get_job_info(job_id).message}"
