"""Clusters to measure: `raydix serve` in processes and directories of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.haproxy import free_ports

ROOT = Path(__file__).resolve().parents[1]
SERVES = "Ctrl-C stops it"
START_TIMEOUT_S = 300.0


@contextlib.contextmanager
def serving(config_text: str, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """The port of a cluster that is started here and ends with the context.

    Args:
        config_text: the configuration as a format string, in which `{port}` is the port.
        environment: variables on top of this process's.
    """
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="rx", dir="/tmp") as name:
        directory, log = Path(name), Path(name) / "log"
        (directory / "c.yaml").write_text(config_text.format(port=port))
        own = {"HOME": name, "RAY_TMPDIR": name, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", "from cluster.cli import main; main()", "serve", "--config", f"{name}/c.yaml"]
        variables = {**os.environ, **own, **(environment or {})}
        with log.open("wb") as out, subprocess.Popen(command, env=variables, stdout=out, stderr=out) as process:
            try:
                wait_for_start(process, log)
                yield port
            finally:
                process.send_signal(signal.SIGINT)


def wait_for_start(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises RuntimeError where the cluster does not come up."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while SERVES not in log.read_text():
        if process.poll() is not None or time.monotonic() > end_s:
            raise RuntimeError(f"the cluster did not come up:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)
