"""Files changed at random, a few bytes at a time, in the ways that disks, downloads and editors change them."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KINDS = ("flip", "set", "set", "digit", "insert", "delete", "truncate", "zeros", "copy")
IN_PLACE = ("flip", "set", "zeros", "copy")
DIGITS = (b"0", b"9", b"-", b".", b"e", b'"', b"[", b"null")


@dataclass(frozen=True)
class Mutation:
    """At byte `at` so many bytes are replaced by others."""

    at: int
    num_removed: int
    inserted: bytes

    def changes(self, data: bytes) -> bool:
        """Whether anything is different afterwards."""
        return data[self.at : self.at + self.num_removed] != self.inserted

    def tail(self, data: bytes) -> bytes:
        """What stands from `at` on afterwards, as far as it is another or at another place."""
        if self.num_removed == len(self.inserted) and self.at + self.num_removed <= len(data):
            return self.inserted
        return self.inserted + data[self.at + self.num_removed :]


def draw_mutation(data: bytes, draw: random.Random, begin: int, end: int, kinds: tuple[str, ...] = KINDS) -> Mutation:
    """One that changes something at a place from `begin` to `end`."""
    while True:
        mutation = mutation_of(draw.choice(kinds), data, draw, draw.randrange(begin, end))
        if mutation.changes(data):
            return mutation


def mutation_of(kind: str, data: bytes, draw: random.Random, at: int) -> Mutation:
    length = min(draw.choice((1, 1, 1, 2, 4, 8, 32)), len(data) - at)
    match kind:
        case "flip":
            return Mutation(at, 1, bytes([data[at] ^ 1 << draw.randrange(8)]))
        case "set":
            return Mutation(at, length, draw.randbytes(length))
        case "digit":
            return Mutation(at, 1, draw.choice(DIGITS))
        case "insert":
            return Mutation(at, 0, draw.randbytes(length))
        case "delete":
            return Mutation(at, length, b"")
        case "truncate":
            return Mutation(at, len(data) - at, b"")
        case "zeros":
            return Mutation(at, length, bytes(length))
    source = draw.randrange(len(data) - length + 1)
    return Mutation(at, length, data[source : source + length])


@contextmanager
def mutated(path: Path, mutation: Mutation, data: bytes) -> Iterator[None]:
    """A file of `data` with a mutation, for as long as the context lasts. Only what is different is written."""
    tail = mutation.tail(data)
    in_place = len(tail) == mutation.num_removed
    overwrite(path, mutation.at, tail, None if in_place else mutation.at + len(tail))
    try:
        yield
    finally:
        end = mutation.at + len(tail) if in_place else len(data)
        overwrite(path, mutation.at, data[mutation.at : end], len(data))


def overwrite(path: Path, at: int, data: bytes, size: int | None) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
        if size is not None:
            file.truncate(size)
    os.utime(path)  # two changes within one tick of the clock are two changes
