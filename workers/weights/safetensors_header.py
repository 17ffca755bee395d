"""The header of a safetensors file, checked before anything is read or allocated for the tensors behind it.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON object, that object, and
the tensors' bytes without gaps. Its library maps whole files, which `ModelFile` says not to do.
"""

import json
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from workers.model_error import ModelError
from workers.weights.model_file import MAX_JSON_BYTES, ModelFile

LENGTH_BYTES = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        offset: of its first byte in the file.
    """

    file: ModelFile
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> torch.Tensor:
        """The tensor as it is stored. Raises ModelError where the file cannot be read, or has changed."""
        data = torch.empty(self.num_bytes, dtype=torch.uint8)
        self.file.read_into(self.offset, data.numpy().data)
        return data.view(self.dtype).view(self.shape)


def read_header(file: ModelFile) -> dict[str, StoredTensor]:
    """All tensors of a file by name. Raises ModelError unless the header describes exactly the bytes behind it."""
    try:
        begin, fields = read_fields(file)
        tensors = {name: read_entry(file, name, entry, begin) for name, entry in fields.items()}
        check_no_gaps(tensors, begin, file.num_bytes)
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{file.path} is damaged: {error}; download it again") from error
    return tensors


def read_fields(file: ModelFile) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and the header without its metadata."""
    if file.num_bytes < LENGTH_BYTES:
        raise ValueError(f"it has {file.num_bytes} bytes, too few for a safetensors header")
    length = int.from_bytes(file.read(0, LENGTH_BYTES), "little")
    if length > min(MAX_JSON_BYTES, file.num_bytes - LENGTH_BYTES):
        raise ValueError(f"its header is said to have {length} bytes, but the whole file has {file.num_bytes}")
    try:
        fields = json.loads(file.read(LENGTH_BYTES, length), object_pairs_hook=without_duplicates)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError(f"its header must be an object, not a {type(fields).__name__}")
    fields.pop("__metadata__", None)
    return LENGTH_BYTES + length, fields


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a name comes twice: readers differ in which of the two they take."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def read_entry(file: ModelFile, name: str, entry: Any, begin: int) -> StoredTensor:
    """One tensor. Raises ValueError where its dtype, shape and place do not go together."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(first), int(end)]}:
            pass
        case _:
            raise ValueError(f"{name} has no dtype, shape and data_offsets")
    if dtype not in DTYPES:
        raise ValueError(f"{name} has the unknown dtype {dtype}; known are {', '.join(DTYPES)}")
    if any(type(size) is not int or size < 0 for size in (*shape, first, end)):
        raise ValueError(f"{name} has the shape {shape} and bytes {first} to {end}")
    tensor = StoredTensor(file, DTYPES[dtype], tuple(shape), begin + first)
    if tensor.num_bytes != end - first:
        raise ValueError(f"{name} takes {tensor.num_bytes} bytes as {dtype} {shape}, but has bytes {first} to {end}")
    return tensor


def check_no_gaps(tensors: dict[str, StoredTensor], begin: int, file_end: int) -> None:
    """Raise ValueError unless the tensors lie one after another up to the end of the file."""
    end, before = begin, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if tensor.offset != end:
            raise ValueError(f"{name} begins at byte {tensor.offset}, but {before} ends at {end}")
        end, before = end + tensor.num_bytes, name
    if end != file_end:
        raise ValueError(f"its tensors end at byte {end}, but the file has {file_end}")
