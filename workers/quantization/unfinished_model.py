"""A directory in which a checkpoint grows shard by shard, and which survives whatever ends the process in between."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from workers.model_error import ModelError
from workers.validation import RequestError
from workers.weights.model_file import find_file
from workers.weights.safetensors_header import read_header
from workers.weights.shards import INDEX_FILE

STATE_FILE = "quantize.partial"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise RequestError where a file cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{path} cannot be written: {error}; what is finished is kept, and the same command goes on with it"
        ) from error


class UnfinishedModel:
    """Shards that are finished, with their SHA-256 in `quantize.partial`, and what the checkpoint is made from.

    Each file is written under another name first. What a crash makes of a file is found by its digest. Whatever writes
    raises RequestError where the disk does not take it.
    """

    def __init__(self, directory: Path, about: Mapping[str, Any], num_shards: int) -> None:
        """Begin in an empty directory, or go on in one that was begun with the same `about`, which is plain JSON.

        Raises:
            RequestError: the directory holds something else.
        """
        self._directory = directory
        self._about = dict(about)
        self._names = [f"model-{index + 1:05}-of-{num_shards:05}.safetensors" for index in range(num_shards)]
        self._digests: dict[str, str] = {}
        with naming(directory):
            directory.mkdir(parents=True, exist_ok=True)
        if (directory / STATE_FILE).is_file():
            self._keep_good_shards(self._read_state())
        elif any(directory.iterdir()):
            raise RequestError(f"{directory} is not empty; give a directory that is, or one that does not exist yet")
        self._write_state()

    @property
    def num_finished(self) -> int:
        """Shards that are there, whole."""
        return len(self._digests)

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the next shard."""
        name = self._names[self.num_finished]
        partial = self._directory / f"{name}.partial"
        with naming(partial):
            save_file(dict(tensors), partial, metadata={"format": "pt"})
            shutil.copymode(self._directory / STATE_FILE, partial)  # save_file lets nobody but the owner read it
            os.replace(partial, self._directory / name)
        self._digests[name] = find_file(self._directory, name).sha256()
        self._write_state()

    def write_index(self) -> None:
        """Make an index of the shards that are there."""
        headers = {name: read_header(find_file(self._directory, name)) for name in self._digests}
        total = sum(tensor.num_bytes for header in headers.values() for tensor in header.values())
        weight_map = {tensor: name for name, header in headers.items() for tensor in sorted(header)}
        self.write_json(INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file beside the shards."""
        partial = self._directory / f"{name}.partial"
        with naming(partial):
            partial.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
            os.replace(partial, self._directory / name)

    def finish(self) -> None:
        """Nothing is to be gone on with any more."""
        (self._directory / STATE_FILE).unlink()

    def _write_state(self) -> None:
        self.write_json(STATE_FILE, {"about": self._about, "shards": self._digests})

    def _read_state(self) -> dict[str, str]:
        """The digests of finished shards."""
        path = self._directory / STATE_FILE
        try:
            state = json.loads(path.read_text("utf-8"))
            about, digests = dict(state["about"]), dict(state["shards"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequestError(f"{path} cannot be read: {error}; remove {self._directory} and begin again") from error
        others = sorted(key for key in {*about, *self._about} if about.get(key) != self._about.get(key))
        if others:
            raise RequestError(
                f"{self._directory} was begun with another {' and '.join(others)}; say the same again to go on, or "
                "remove it to begin again"
            )
        return digests

    def _keep_good_shards(self, digests: Mapping[str, str]) -> None:
        """Take over shards up to the first that is not what was written; what else there is of the model is removed."""
        for name in self._names:
            if not self._is_good(name, digests.get(name)):
                break
            self._digests[name] = digests[name]
        for path in self._directory.glob("model-*.safetensors"):
            if path.name not in self._digests:
                path.unlink()

    def _is_good(self, name: str, digest: str | None) -> bool:
        try:
            return digest is not None and find_file(self._directory, name).sha256() == digest
        except ModelError:
            return False
