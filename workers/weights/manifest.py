"""`manifest.json`: SHA-256 of every file of a checkpoint that raydix wrote, and how its weights were made.

A flipped bit in a weight is a number like any other; nothing but its digest tells.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.model_error import ModelError
from workers.weights.model_dir import decides_tokens, model_files
from workers.weights.model_file import find_file, has_file

MANIFEST_FILE = "manifest.json"
VERSION = 1
PARTIAL = ".partial"  # ends the names of files that are being written


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
    files = [path for path in directory.iterdir() if path.is_file() and path.suffix != PARTIAL]
    names = sorted(path.name for path in files if path.name != MANIFEST_FILE)
    digests = {name: find_file(directory, name).sha256() for name in names}
    partial = directory / f"{MANIFEST_FILE}{PARTIAL}"
    partial.write_text(json.dumps({"version": VERSION, "files": digests, **asdict(about)}, indent=2) + "\n", "utf-8")
    os.replace(partial, directory / MANIFEST_FILE)


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a model directory, None where there is none. Raises ModelError where it cannot be read."""
    if not has_file(directory, MANIFEST_FILE):
        return None
    file = find_file(directory, MANIFEST_FILE)
    data = file.read_json()
    try:
        return parse(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ModelError(f"{file.path} is no manifest that raydix writes: {problem}. Fetch the model again") from error


def verify_manifest(directory: Path) -> None:
    """Hold the files that decide tokens against the directory's manifest. Most checkpoints have none.

    Raises:
        ModelError: a file is missing or is not what was written, or one that decides tokens is not in the manifest.
    """
    verified_digests(directory)


def verified_digests(directory: Path) -> dict[str, str]:
    """SHA-256 in hex of each file that decides tokens but the manifest, by name. Raises as `verify_manifest`."""
    manifest = read_manifest(directory)
    files = {file.path.name: file for file in model_files(directory) if file.path.name != MANIFEST_FILE}
    if manifest is None:
        return {name: file.sha256() for name, file in files.items()}
    listed = {name for name in manifest.files if decides_tokens(name)}  # a model's card may change
    for name in sorted(files.keys() - listed):
        raise ModelError(f"{directory / name} is not in {MANIFEST_FILE}: it came later; remove it, or {MANIFEST_FILE}")
    for name in sorted(listed - files.keys()):
        raise ModelError(f"{directory / name} is missing, but {MANIFEST_FILE} has it. Fetch it again")
    digests = {}
    for name, file in sorted(files.items(), key=lambda item: item[1].num_bytes):  # what is soon known comes first
        digests[name] = file.sha256()
        check_digest(file.path, digests[name], manifest.files[name])
    return digests


def check_digest(path: Path, actual: str, wanted: str) -> None:
    """Raise ModelError unless a file has the SHA-256 that it was written with."""
    if actual != wanted:
        raise ModelError(
            f"{path} is damaged or was changed: its SHA-256 is {actual}, {MANIFEST_FILE} has {wanted}. Fetch it again"
        )


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
