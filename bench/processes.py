"""Processes that a cluster was started in: ending them, and finding what is left."""

import contextlib
import os
import signal
from pathlib import Path


def interruptible() -> None:
    """Have SIGTERM end this process as Ctrl-C does, cleaning up, and Ctrl-C as well where a shell had it ignored."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)


def kill_all_in(directory: Path) -> None:
    """What is left of a cluster whose directory it is."""
    for pid in living_in(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def living_in(directory: Path) -> set[int]:
    """Processes whose working directory it is: all that were started there, orphans too."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if link.readlink() == directory:
                found.add(int(link.parent.name))
    return found
