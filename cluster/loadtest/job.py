"""The client inside a Ray job: settings and key from files beside it, the report between two marks in the job's log."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from cluster.loadtest.client import NoServer
from cluster.loadtest.report import problem, report
from cluster.loadtest.run import run
from cluster.loadtest.settings import Settings, SettingsError

SETTINGS_FILE, KEY_FILE = "settings.json", "api_key"
BEGIN, END = "<<< load test report", "load test report >>>"


def main() -> int:
    """Run; the exit status is that of `cluster.loadtest`."""
    values = json.loads(Path(SETTINGS_FILE).read_text("utf-8"))
    try:
        settings = Settings(**values | {"rates": tuple(values["rates"])})
        written = report(asyncio.run(run(settings, key_beside())), settings)
    except (NoServer, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{BEGIN}\n{json.dumps(written)}\n{END}", flush=True)
    return 1 if problem(written) else 0


def key_beside() -> str | None:
    """The API's key, if one was sent. The file is closed to others from here on: Ray unpacks it readable by all."""
    path = Path(KEY_FILE)
    if not path.is_file():
        return None
    path.chmod(0o600)
    return path.read_text("ascii")


def report_in(log: str) -> dict[str, Any] | None:
    """The report in a job's log; None where there is none."""
    _, begun, after = log.partition(f"{BEGIN}\n")
    text, ended, _ = after.partition(f"\n{END}")
    if not begun or not ended:
        return None
    written: dict[str, Any] = json.loads(text)
    return written


if __name__ == "__main__":
    sys.exit(main())
