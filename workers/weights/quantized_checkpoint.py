"""A safetensors checkpoint whose matrices are stored in several tensors each: integers, scales, zero points."""

from typing import Protocol

import torch

from kernels.int4 import PackedInt4, ReorderedInt4, dequantize, pack_nibbles, unpack_nibbles
from workers.models.spec import ModelError, ModelSpec
from workers.models.tensor_shapes import tensor_shapes
from workers.weights.checkpoint import FLOATS, Checkpoint
from workers.weights.matrix import Matrix

SCALES = (torch.float16, torch.bfloat16, torch.float32)


class Layout(Protocol):
    """How one format stores a matrix.

    Attributes:
        marker: the part that every quantised module has.
        required: the parts that it must have besides.
        parts: all parts that it may have; `names` leaves them out.
    """

    @property
    def marker(self) -> str: ...

    @property
    def required(self) -> tuple[str, ...]: ...

    @property
    def parts(self) -> tuple[str, ...]: ...

    def read(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> Matrix:
        """The matrix of a module. Raises ModelError where its parts are not what they must be."""


class QuantizedCheckpoint:
    """A `TensorSource` that has `<module>.weight` for each module that the layout's parts are stored of."""

    keeps_floats = True

    def __init__(self, checkpoint: Checkpoint, layout: Layout, spec: ModelSpec) -> None:
        """Raises ModelError where a module is stored twice or not at all, or none is quantised."""
        self._checkpoint = checkpoint
        self._layout = layout
        ending = f".{layout.marker}"
        self._modules = {name.removesuffix(ending) for name in checkpoint.names if name.endswith(ending)}
        if not self._modules:
            raise ModelError(f"config.json says that the checkpoint is quantised, but no tensor is a {layout.marker}")
        twice = sorted(checkpoint.names & {f"{module}.weight" for module in self._modules})
        if twice:
            raise ModelError(f"the checkpoint has {twice[0]} quantised and as it was; only one of them can be meant")
        for module in sorted(self._modules):
            for part in layout.required:
                if f"{module}.{part}" not in checkpoint.names:
                    raise ModelError(
                        f"the checkpoint lacks {module}.{part}, but has its {layout.marker}; download it again"
                    )
        for name, shape in tensor_shapes(spec):
            if name.removesuffix(".weight") not in self._modules:
                checkpoint.check(name, shape, *FLOATS)

    @property
    def names(self) -> set[str]:
        """All tensors, those of a quantised module as one, less biases of zeros, which old files have for no reason."""
        stored = {f"{module}.{part}" for module in self._modules for part in self._layout.parts}
        biases = {f"{module}.bias" for module in self._modules} & self._checkpoint.names
        zeros = {name for name in biases if not self._checkpoint.tensors[name].read().any()}
        return self._checkpoint.names - stored - zeros | {f"{module}.weight" for module in self._modules}

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """As floats, a packed matrix too."""
        if name.removesuffix(".weight") not in self._modules or len(shape) != 2:
            return self._checkpoint.read(name, shape)
        matrix = self.read_matrix(name, shape)
        return matrix if isinstance(matrix, torch.Tensor) else dequantize(matrix, torch.float32)

    def read_matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """As it is stored."""
        module = name.removesuffix(".weight")
        return self._layout.read(self._checkpoint, module, shape) if module in self._modules else self.read(name, shape)


def read_scales(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> torch.Tensor:
    """Scales as float32, which has all numbers of the smaller formats. Raises ModelError unless all are positive."""
    scales = checkpoint.read_as_stored(name, shape, *SCALES).float()
    low, high = scales.aminmax()  # NaN wins in both
    if not (low > 0 and high < torch.inf):
        bad = ~(torch.isfinite(scales) & (scales > 0))
        row, column = bad.nonzero()[0].tolist()
        raise ModelError(
            f"{where(checkpoint, name)}: {int(bad.sum())} of {scales.numel()} scales are not positive numbers, "
            f"the first {scales[row, column].item():g} at [{row}, {column}]; quantise the model again"
        )
    return scales


def check_groups(name: str, num_inputs: int, group_size: int) -> None:
    """Raise ModelError unless groups of `group_size` tile the inputs and fill whole bytes."""
    if group_size < 2 or group_size % 2 or num_inputs % group_size:
        raise ModelError(
            f"{name} has {num_inputs} inputs, which groups of {group_size} do not tile; the group size must be even "
            "and divide them"
        )


def where(checkpoint: Checkpoint, name: str) -> str:
    """A stored tensor with its file, for messages."""
    return f"{checkpoint.tensors[name].file.path}: {name}"


def bytes_of(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, columns] as uint8 [rows, 4 * columns], the lowest first."""
    return words.contiguous().flatten().view(torch.uint8).view(len(words), -1)


def read_order(checkpoint: Checkpoint, name: str, num_inputs: int, group_size: int) -> torch.Tensor | None:
    """The inputs sorted by the group that g_idx puts each in, int64 [K]; None where they are, or there is no g_idx."""
    if name not in checkpoint.names:
        return None
    group_of = checkpoint.read_as_stored(name, (num_inputs,), torch.int32).long()
    sorted_groups = torch.arange(num_inputs) // group_size
    if torch.equal(group_of, sorted_groups):
        return None
    order = group_of.argsort(stable=True)
    if not torch.equal(group_of[order], sorted_groups):
        raise ModelError(
            f"{where(checkpoint, name)} does not name each of {num_inputs // group_size} groups {group_size} times; "
            "quantise the model again"
        )
    return order


def packed_in_order(
    nibbles: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, group_size: int, order: torch.Tensor | None
) -> PackedInt4 | ReorderedInt4:
    """The matrix, its columns sorted by group where they are not. Nibbles are uint8 [N, K / 2], the rest [N, K / g]."""
    if order is None:
        return PackedInt4(nibbles.contiguous(), scales.contiguous(), zeros.contiguous(), group_size)
    columns = pack_nibbles(unpack_nibbles(nibbles)[:, order])
    return ReorderedInt4(PackedInt4(columns, scales.contiguous(), zeros.contiguous(), group_size), order)
