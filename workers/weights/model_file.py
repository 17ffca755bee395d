"""Files of a model directory, read so that none can lead out of it, hang its reader or kill it.

Nothing is mapped into memory: where a mapped file shrinks, the kernel ends the process (SIGBUS).
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workers.model_error import ModelError

MAX_JSON_BYTES = 100_000_000  # the limit that the safetensors library sets for its headers
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """A regular file as it was when it was found. Every reading raises ModelError where it has changed since.

    Attributes:
        path: as it is told to users.
        target: where symbolic links lead, which is what is opened.
        state: device, inode, size in bytes and time of the last change.
    """

    path: Path
    target: Path
    state: tuple[int, int, int, int]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return self.state[2]

    def read(self, offset: int, num_bytes: int) -> bytes:
        """A part of it."""
        data = bytearray(num_bytes)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer of bytes from `offset` on."""
        with self._opened() as descriptor:
            self._fill(descriptor, offset, buffer)

    def read_json(self) -> bytes:
        """All of it. Raises ModelError where that is too much for a file of JSON."""
        if self.num_bytes > MAX_JSON_BYTES:
            raise ModelError(f"{self.path} has {self.num_bytes} bytes; at most {MAX_JSON_BYTES} of JSON are read")
        return self.read(0, self.num_bytes)

    def sha256(self) -> str:
        """Of all of it, in hexadecimal."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(self.num_bytes, CHUNK_BYTES)))
        with self._opened() as descriptor:
            for offset in range(0, self.num_bytes, CHUNK_BYTES):
                part = buffer[: self.num_bytes - offset]
                self._fill(descriptor, offset, part)
                digest.update(part)
        return digest.hexdigest()

    def _fill(self, descriptor: int, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.preadv(descriptor, [buffer[:CHUNK_BYTES]], offset)
            if count == 0:  # it has shrunk
                raise self._changed()
            buffer, offset = buffer[count:], offset + count

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the very file that was found, unchanged."""
        descriptor = -1
        try:
            descriptor = os.open(self.target, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # whatever it is by now
            if state_of(os.fstat(descriptor)) != self.state:
                raise self._changed()
            yield descriptor
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror}") from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _changed(self) -> ModelError:
        return ModelError(f"{self.path} was changed while it was read; load the model again when nobody writes to it")


def find_file(model_dir: Path, name: str) -> ModelFile:
    """A file of a model directory. Raises ModelError where it is none, or none of this directory."""
    if name in ("", ".", "..") or "/" in name:
        raise ModelError(f"{name!r} is not the name of a file in {model_dir}")
    path = model_dir / name
    try:
        target = Path(os.path.realpath(path, strict=True))
        status = os.stat(target)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{path} cannot be read: {reason}. Is this a Hugging Face model directory?") from error
    if not any(target.is_relative_to(home) for home in homes(model_dir)):
        raise ModelError(f"{path} is a link that leaves its model directory (to {target}); put the file itself there")
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path} is no regular file; a model is made of plain files")
    return ModelFile(path, target, state_of(status))


def has_file(model_dir: Path, name: str) -> bool:
    """Whether there is anything of this name, if only a link that leads nowhere. Raises ModelError as `find_file`."""
    try:
        os.lstat(model_dir / name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelError(f"{model_dir / name} cannot be looked at: {error.strerror}") from error
    return True


def homes(model_dir: Path) -> list[Path]:
    """Where the files of a model may lie: in its directory, and in the blobs of its repository in the Hub's cache.

    The cache has `<repository>/snapshots/<revision>/config.json` as a link to `<repository>/blobs/<digest>`.
    """
    real = Path(os.path.realpath(model_dir))
    return [real, real.parent.parent / "blobs"] if real.parent.name == "snapshots" else [real]


def state_of(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
