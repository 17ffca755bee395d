"""The header of a GGUF file: its metadata, and where its tensors lie.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all little-endian: "GGUF", version, how many
tensors and how many metadata; the metadata; names, sizes, types and offsets of the tensors; their bytes, aligned. The
`gguf` package knows the types. Its reader maps the file, which `ModelFile` says not to do, and believes what a damaged
file says of its own lengths.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from workers.model_error import ModelError
from workers.weights.model_file import ModelFile, find_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 2**26  # vocabularies of a quarter of a million tokens take about 10 MiB
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a file.

    Attributes:
        shape: as torch has it: the last dimension is the one whose values lie side by side.
        offset: of its first byte in the file.
    """

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        block_size, block_bytes = GGML_QUANT_SIZES[self.kind]
        size: int = prod(self.shape) // block_size * block_bytes
        return size


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself. Arrays in `metadata` are lists, those of numbers numpy arrays; strings are `str`."""

    file: ModelFile
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises ModelError where the header is damaged, or does not describe bytes that the file has."""
    file = find_file(path.parent, path.name)
    try:
        return parse_header(file)
    except (ValueError, struct.error, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{file.path} is no GGUF file that can be read: {error}; download it again") from error


def parse_header(file: ModelFile) -> GgufHeader:
    cursor = Cursor(file.read(0, min(file.num_bytes, MAX_HEADER_BYTES)))
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not begin with 'GGUF'")
    version = cursor.number("<I")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, and {VERSIONS} are known")
    num_tensors, num_metadata = cursor.number("<Q"), cursor.number("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_metadata):
        put(metadata, cursor.string(), cursor.value)
    entries: dict[str, tuple[GGMLQuantizationType, tuple[int, ...], int]] = {}
    for _ in range(num_tensors):
        put(entries, cursor.string(), cursor.tensor)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {alignment!r}, which is no power of two")
    begin = -(-cursor.offset // alignment) * alignment
    tensors = {name: GgufTensor(kind, shape, begin + offset) for name, (kind, shape, offset) in entries.items()}
    check_places(tensors, file.num_bytes)
    return GgufHeader(file, metadata, tensors)


def put(known: dict[str, Any], name: str, read: Callable[[], Any]) -> None:
    """Add one entry. Raises ValueError where its name comes twice: readers differ in which of the two they take."""
    if name in known:
        raise ValueError(f"{name!r} is there twice")
    known[name] = read()


def check_places(tensors: dict[str, GgufTensor], file_bytes: int) -> None:
    """Raise ValueError where tensors overlap or are not whole: there may be padding between them, and nothing else."""
    end, before = 0, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.shape[-1] % GGML_QUANT_SIZES[tensor.kind][0]:
            raise ValueError(f"{name} is {list(tensor.shape)}, which blocks of {tensor.kind.name} do not tile")
        if tensor.offset < end:
            raise ValueError(f"{name} begins at byte {tensor.offset}, inside {before}")
        end, before = tensor.offset + tensor.num_bytes, name
        if end > file_bytes:
            raise ValueError(f"{name} ends at byte {end}, but the file has {file_bytes}")


class Cursor:
    """Reads one thing after another. Every method raises ValueError or struct.error beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, num_bytes: int) -> bytes:
        """The next bytes."""
        begin, self.offset = self.offset, self.offset + num_bytes
        if self.offset > len(self._data):
            raise ValueError(f"its header goes on beyond byte {len(self._data)}")
        return self._data[begin : self.offset]

    def number(self, code: str) -> int:
        """A number in one of `struct`'s formats."""
        value: int = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return value

    def string(self) -> str:
        """Its length and its bytes."""
        return self.take(self.number("<Q")).decode("utf-8")

    def value(self) -> Any:
        """A type and a value of it."""
        kind = GGUFValueType(self.number("<I"))
        if kind != GGUFValueType.ARRAY:
            return self._of_kind(kind)
        item_kind, length = GGUFValueType(self.number("<I")), self.number("<Q")
        if item_kind == GGUFValueType.STRING:
            return [self.string() for _ in range(length)]
        if item_kind == GGUFValueType.ARRAY:
            raise ValueError("it has arrays of arrays")
        dtype = np.dtype(SCALARS[item_kind])
        return np.frombuffer(self.take(length * dtype.itemsize), dtype)

    def _of_kind(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self.string()
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def tensor(self) -> tuple[GGMLQuantizationType, tuple[int, ...], int]:
        """Type, shape, and offset behind the header."""
        num_dimensions = self.number("<I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {num_dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(num_dimensions))[::-1]
        return GGMLQuantizationType(self.number("<I")), shape, self.number("<Q")
