"""`raydix status`: a live table in the terminal, read from the metrics ports of a cluster's nodes."""

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.commands.status import ClusterStatus, DoorFigures, StatusError, WorkerRow
from cluster.telemetry.prometheus_text import Samples, parse

PERIOD_S = 2.0
TIMEOUT_S = 5.0
COLUMNS = ("pool", "worker", "running", "waiting", "queued", "KV", "hits", "tokens/s")  # in a terminal of 80 columns
PORT_FILES = "ray/session_latest/metrics_export_port_*"  # where Ray writes down what ports its nodes here have


def show(source: str | None) -> None:
    """Show a cluster until Ctrl-C. Raises StatusError where there is none to be seen.

    Args:
        source: address of one metrics port, or a file that lists some as Prometheus' `file_sd_configs` has it; None for
            the cluster that runs on this machine.
    """
    status = ClusterStatus()
    with Live(auto_refresh=False) as live:
        while True:
            status.take(scrape(addresses(source)), time.monotonic())
            live.update(Group(worker_table(status.workers), door_line(status.doors)), refresh=True)
            time.sleep(PERIOD_S)


def addresses(source: str | None) -> list[str]:
    """The metrics ports. Raises StatusError where the file cannot be read."""
    if source is None:
        files = Path(os.environ.get("RAY_TMPDIR", "/tmp")).glob(PORT_FILES)
        return [f"http://127.0.0.1:{file.read_text('utf-8').strip()}/metrics" for file in files]
    if source.startswith(("http://", "https://")):
        return [source]
    try:
        groups = json.loads(Path(source).read_text("utf-8"))
        return [f"http://{target}/metrics" for group in groups for target in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StatusError(f"{source} does not list metrics ports: {error}") from error


def scrape(urls: list[str]) -> Samples:
    """All that the ports say. Raises StatusError where none answers."""
    texts, errors = [], []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                texts.append(answer.read().decode())
        except (OSError, ValueError) as error:
            errors.append(f"{url}: {error}")
    if not texts:
        raise StatusError(f"no metrics port answers, is a cluster running? {'; '.join(errors) or 'none is known'}")
    return parse("\n".join(texts))


def worker_table(rows: list[WorkerRow]) -> Table:
    """A line for each worker."""
    table = Table(*COLUMNS)
    for column in table.columns[2:]:
        column.justify = "right"
    table.columns[1].no_wrap = True
    for row in rows:
        hits = "" if row.hit_rate is None else f"{row.hit_rate:.0%}"
        numbers = (f"{row.running}", f"{row.waiting}", f"{row.queued_tokens}", f"{row.kv_usage:.0%}")
        table.add_row(row.pool, row.name, *numbers, hits, f"{row.tokens_per_s:.1f}")
    return table


def door_line(doors: DoorFigures) -> Text:
    """The front doors and the router in two lines."""
    first = "" if doors.first_token_s is None else "first token {:.3f} s (p95 {:.3f} s), ".format(*doors.first_token_s)
    routed = ", ".join(f"{reason} {number}" for reason, number in doors.decisions.items())
    return Text(
        f"{doors.requests_per_s:.2f} requests/s, {first}"
        f"{doors.failed} failed, {doors.refused} refused, {doors.resumed} resumed\n"
        f"routed by {routed or 'nothing yet'}; index {doors.index_lag_s:.1f} s old"
    )
