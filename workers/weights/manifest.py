"""`manifest.json`: SHA-256 of every file of a checkpoint that raydix wrote, and how its weights were made.

A flipped bit in a weight is a number like any other; nothing but its digest tells.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.models.spec import ModelError
from workers.weights.model_dir import FILES

MANIFEST_FILE = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """The text that activations were taken from: its SHA-256 in hex, its size, and how many tokens of it were used."""

    sha256: str
    bytes: int
    tokens: int


@dataclass(frozen=True)
class Making:
    """How the weights were made: the method, its options by name, and the calibration where there was one."""

    method: str
    options: Mapping[str, Any]
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says: the SHA-256 in hex of every other file, by name, and how the weights were made."""

    files: Mapping[str, str]
    making: Making


def write_manifest(directory: Path, about: Making) -> None:
    """Put the digests of all files in the directory into its `manifest.json`, which appears whole or not at all."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.name != MANIFEST_FILE)
    digests = {name: file_digest(directory / name) for name in names}
    partial = directory / f"{MANIFEST_FILE}.partial"
    partial.write_text(json.dumps({"version": VERSION, "files": digests, **asdict(about)}, indent=2) + "\n", "utf-8")
    os.replace(partial, directory / MANIFEST_FILE)


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a model directory, None where there is none. Raises ModelError where it cannot be read."""
    path = directory / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        return parse(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ModelError(f"{path} is no manifest that raydix writes: {problem}. Fetch the model again") from error


def verify_manifest(directory: Path) -> None:
    """Hold the files against the directory's manifest; where it has none, as most checkpoints, there is nothing to do.

    Raises:
        ModelError: a file is missing or is not what was written, or one that decides tokens is not in the manifest.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        return
    for name, digest in manifest.files.items():
        check_file(directory / name, digest)
    for path in sorted(path for pattern in FILES for path in directory.glob(pattern)):
        if path.name not in manifest.files and path.name != MANIFEST_FILE:
            raise ModelError(f"{path} is not in {MANIFEST_FILE}: it came later; remove it, or remove {MANIFEST_FILE}")


def check_file(path: Path, digest: str) -> None:
    """Raise ModelError unless the file has this SHA-256."""
    try:
        actual = file_digest(path)
    except OSError as error:
        raise ModelError(f"{path} is in {MANIFEST_FILE}, but cannot be read: {error}. Fetch it again") from error
    if actual != digest:
        raise ModelError(
            f"{path} is damaged or was changed: its SHA-256 is {actual}, {MANIFEST_FILE} has {digest}. Fetch it again"
        )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's contents, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse(content: Any) -> Manifest:
    """Raises ValueError, KeyError or TypeError for what `write_manifest` does not write."""
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']!r}, and only {VERSION} is known")
    files = dict(content["files"])
    for name, digest in files.items():
        if Path(name).name != name or not isinstance(digest, str):
            raise ValueError(f"{name!r} is no file of this directory with its SHA-256")
    calibration = content["calibration"]
    known = None if calibration is None else Calibration(**calibration)
    return Manifest(files, Making(content["method"], dict(content["options"]), known))
