"""Which files of a directory are opened, by whatever code: the kernel is asked (inotify), so Rust is seen too."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_OPEN = 0x20
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name behind it


@contextmanager
def opened_files(directory: Path) -> Iterator[set[str]]:
    """The names, complete when the context ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(directory), IN_OPEN) < 0:
        raise OSError(ctypes.get_errno(), "inotify cannot watch", str(directory))
    names: set[str] = set()
    try:
        yield names
        names |= read_names(descriptor)
    finally:
        os.close(descriptor)


def read_names(descriptor: int) -> set[str]:
    names: set[str] = set()
    while True:
        try:
            events = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return names - {""}
        offset = 0
        while offset < len(events):
            *_, length = EVENT.unpack_from(events, offset)
            offset += EVENT.size
            names.add(os.fsdecode(events[offset : offset + length].rstrip(b"\0")))
            offset += length
