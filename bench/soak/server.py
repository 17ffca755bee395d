"""`raydix serve` in a process and in directories of its own, with a second driver to look into it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from bench.faults.remote import Json, Remote, own_places, remote
from bench.processes import kill_all_in
from cluster.haproxy import free_ports

SERVES = "Ctrl-C stops it"
START_TIMEOUT_S, END_TIMEOUT_S = 300.0, 90.0


@contextlib.asynccontextmanager
async def server(sections: Json) -> AsyncIterator[tuple[Remote, int]]:
    """The driver, and the port of the API."""
    (port,) = free_ports(1)
    config = sections | {"http": {"port": port}}
    with tempfile.TemporaryDirectory(prefix="rx", dir="/tmp", ignore_cleanup_errors=True) as name:
        process = await started(Path(name), config)
        try:
            async with remote("bench.soak.attach", json.dumps(config), directory=Path(name)) as driver:
                yield driver, port
        finally:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                process.send_signal(signal.SIGINT)
                await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
            kill_all_in(Path(name))


async def started(directory: Path, config: Json) -> asyncio.subprocess.Process:
    """Wait until it serves. Raises RuntimeError where it does not."""
    (directory / "c.yaml").write_text(json.dumps(config))  # YAML is a superset
    log = directory / "log"
    command = [sys.executable, "-c", "from cluster.cli import main; main()", "serve", "--config", "c.yaml"]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=directory, env=os.environ | own_places(directory), stdout=out, stderr=out
        )
    for _ in range(int(START_TIMEOUT_S / 0.2)):
        if SERVES in log.read_text():
            return process
        if process.returncode is not None:
            break
        await asyncio.sleep(0.2)
    kill_all_in(directory)
    raise RuntimeError(f"the server did not come up:\n{log.read_text()[-2000:]}")
