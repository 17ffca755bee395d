"""Which file holds which tensor: one file's header, or an index and the headers of all its files, which must agree.

Only safetensors files are opened. Pickled checkpoints (.bin, .pt) can run code when they are read.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from workers.model_error import ModelError
from workers.weights.model_file import find_file, has_file
from workers.weights.safetensors_header import StoredTensor, read_header, without_duplicates

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARDS = ("model.safetensors", "model-*-of-*.safetensors")


@dataclass(frozen=True)
class ShardIndex:
    """What an index says.

    Attributes:
        file_of: the file of each tensor.
        total_bytes: of all tensors, where it says that.
    """

    path: Path
    file_of: dict[str, str]
    total_bytes: int | None


def find_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """All tensors by name. Raises ModelError where there are none, or files that are not of the checkpoint."""
    index = read_index(model_dir) if has_file(model_dir, INDEX_FILE) else None
    files = set(index.file_of.values()) if index else {SINGLE_FILE}
    if not index and not has_file(model_dir, SINGLE_FILE):
        raise ModelError(f"{model_dir / SINGLE_FILE} is missing, and there is no index. Only safetensors are served")
    headers = {name: read_header(find_file(model_dir, name)) for name in sorted(files)}
    check_no_others(model_dir, files)
    if index:
        check_index(index, headers)
    return {name: tensor for tensors in headers.values() for name, tensor in tensors.items()}


def check_no_others(model_dir: Path, files: set[str]) -> None:
    """Raise ModelError where shards lie in the directory that would not be read: of which model are they?"""
    others = sorted({path.name for pattern in SHARDS for path in model_dir.glob(pattern)} - files)
    if others:
        raise ModelError(f"{model_dir / others[0]} is not among the checkpoint's files; remove it or mend the index")


def check_index(index: ShardIndex, headers: dict[str, dict[str, StoredTensor]]) -> None:
    """Raise ModelError unless every file holds just the tensors that the index says are in it."""
    for file, tensors in headers.items():
        listed = {name for name, where in index.file_of.items() if where == file}
        for name in sorted(listed - tensors.keys()):
            raise ModelError(f"{index.path}: {name} is said to be in {file}, which lacks it; download both again")
        for name in sorted(tensors.keys() - listed):
            said = index.file_of.get(name, "no file")
            raise ModelError(f"{index.path}: {name} is in {file}, but said to be in {said}; download both again")
    total = sum(tensor.num_bytes for tensors in headers.values() for tensor in tensors.values())
    if index.total_bytes not in (None, total):
        raise ModelError(f"{index.path}: total_size is {index.total_bytes}, but the tensors have {total} bytes")


def read_index(model_dir: Path) -> ShardIndex:
    """Parse `model.safetensors.index.json`. Raises ModelError where it is none, or names files it must not."""
    file = find_file(model_dir, INDEX_FILE)
    try:
        match json.loads(file.read_json(), object_pairs_hook=without_duplicates):
            case {"weight_map": dict(file_of), "metadata": {"total_size": int() | float() as total}} if file_of:
                index = ShardIndex(file.path, file_of, int(total))
            case {"weight_map": dict(file_of)} if file_of:
                index = ShardIndex(file.path, file_of, None)
            case _:
                raise ValueError("it has no weight_map of tensors")
    except ModelError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise ModelError(f"{file.path} is not a safetensors index: {error}") from error
    for name, where in index.file_of.items():
        if not isinstance(where, str) or Path(where).name != where or not where.endswith(".safetensors"):
            raise ModelError(
                f"{file.path}: {name} is said to be in {where!r}, which is not a safetensors file of this directory"
            )
    return index
