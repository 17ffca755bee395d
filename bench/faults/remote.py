"""A process that is spoken to in lines of JSON, in directories of its own, and none of whose children outlive it."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bench.processes import kill_all_in

ROOT = Path(__file__).resolve().parents[2]
END_TIMEOUT_S = 60.0
Json = dict[str, Any]


class Remote:
    """One command at a time; an answer with an error raises RuntimeError."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process = process
        self._turn = asyncio.Lock()
        self.directory = directory

    async def do(self, what: str, **arguments: Any) -> Json:
        """Have it done, and wait for that."""
        async with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"do": what} | arguments).encode() + b"\n")
            line = await self._process.stdout.readline()
        answer: Json = json.loads(line) if line else {"error": "the process has ended; its log is above"}
        if "error" in answer:
            raise RuntimeError(f"{what}: {answer['error']}")
        return answer

    async def end(self) -> None:
        """Close its input and wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), END_TIMEOUT_S)


@contextlib.asynccontextmanager
async def remote(module: str, *arguments: str, directory: Path | None = None) -> AsyncIterator[Remote]:
    """`python -m module`, with a HOME and a Ray directory of its own, or in another process's."""
    with contextlib.ExitStack() as stack:
        own = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rx", dir="/tmp")))
        environment = os.environ | own_places(own)
        command = [sys.executable, "-m", module, *arguments]
        with (own / f"{module}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=own, env=environment, stdin=-1, stdout=-1, stderr=log, limit=2**24
            )
        spoken = Remote(process, own)
        try:
            yield spoken
        except BaseException:
            print((own / f"{module}.log").read_text("utf-8", "replace")[-2000:], file=sys.stderr)
            raise
        finally:
            await asyncio.shield(spoken.end())
            if directory is None:
                kill_all_in(own)


def own_places(directory: Path) -> dict[str, str]:
    """Variables that keep a cluster out of others' way. The compiled kernels are shared: a build takes a minute."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    own = {"HOME": str(directory), "RAY_TMPDIR": str(directory), "PYTHONPATH": str(ROOT)}
    return own | {"XDG_CACHE_HOME": cache}
