"""Checkpoints in the `pack-quantized` format of the compressed-tensors library, which LLM Compressor and vLLM use.

A module of N outputs and K inputs in groups of g, with b of 4 or 8 bits, p = 32 / b of them a word:
    weight_packed      int32 [N, K / p]      input p i + j in bits b j to b j + b - 1 of word [n, i], plus 2^(b-1)
    weight_scale       float [N, K / g]      [N, 1] where a row is one group
    weight_zero_point  int32 [N / p, K / g]  output p i + j likewise, plus 2^(b-1); only where not symmetric
    weight_shape       int64 [2]             N and K
    weight_g_idx       int32 [K]             the group of each input, where columns were quantised in another order
Divisions are rounded up.
"""

from dataclasses import dataclass
from typing import Any

import torch

from kernels.int4 import swap_nibbles, unpack_nibbles
from workers.model_error import ModelError
from workers.models.config_fields import ConfigFields, shown
from workers.weights.checkpoint import Checkpoint
from workers.weights.matrix import Matrix
from workers.weights.quantized_checkpoint import bytes_of, check_groups, packed_in_order, read_order, read_scales, where

FORMAT = "pack-quantized"
UNSERVED = ("kv_cache_scheme", "sparsity_config", "transform_config")
SHAPES = (torch.int64, torch.int32)


@dataclass(frozen=True)
class Scheme:
    """How the modules of one group in config.json are quantised; a `group_size` of -1 is one group of all inputs."""

    num_bits: int
    group_size: int
    symmetric: bool

    @classmethod
    def from_config(cls, name: str, config: ConfigFields) -> "Scheme":
        """Raises ValueError for a scheme that is not served."""
        for key in ("input_activations", "output_activations"):
            if key in config:
                raise ValueError(f"{name} quantises activations ({key}); only schemes for weights alone are served")
        if config.any("format") not in (None, FORMAT):
            raise ValueError(f"{name} has the format {shown(config.any('format'))}; only {FORMAT} is served")
        weights = ConfigFields(config.object("weights"))
        bits, kind, strategy = weights.any("num_bits"), weights.any("type") or "int", weights.any("strategy")
        if bits not in (4, 8) or kind != "int":
            raise ValueError(f"{name} has {kind} weights of {shown(bits)} bits; served are int of 4 or 8 bits")
        if strategy not in ("group", "channel"):
            raise ValueError(f"{name} has the strategy {shown(strategy)}; group and channel are served")
        return cls(bits, weights.integer("group_size") if strategy == "group" else -1, weights.flag("symmetric", True))

    def columns(self, num_inputs: int) -> list[int]:
        """How many weight_packed and weight_scale of a module have."""
        groups = 1 if self.group_size == -1 else -(-num_inputs // self.group_size)
        return [-(-num_inputs * self.num_bits // 32), groups]


@dataclass(frozen=True)
class CompressedTensorsLayout:
    """`workers.weights.quantized_checkpoint.Layout`.

    Which modules are quantised, and by which of several schemes, the tensors themselves say: `targets` and `ignore` of
    config.json need not be asked.
    """

    schemes: tuple[Scheme, ...]
    marker = "weight_packed"
    required = ("weight_scale", "weight_shape")
    parts = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")

    @classmethod
    def from_config(cls, config: ConfigFields) -> "CompressedTensorsLayout":
        """Raises ValueError for a scheme that is not served."""
        if config.any("format") != FORMAT:
            raise ValueError(f"compressed-tensors' format is {shown(config.any('format'))}; only {FORMAT} is served")
        for key in UNSERVED:
            if config.any(key):
                raise ValueError(f"compressed-tensors' {key} is not served; quantise the model without it")
        groups: dict[str, Any] = dict(config.object("config_groups"))
        if not groups or not all(isinstance(group, dict) for group in groups.values()):
            raise ValueError(f"compressed-tensors' config_groups is {shown(groups)}; it must be an object of objects")
        return cls(tuple(Scheme.from_config(name, ConfigFields(group)) for name, group in groups.items()))

    def read(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> Matrix:
        """The matrix: of 4 bits packed, of 8 as floats. Raises ModelError where a part is wrong."""
        num_outputs, num_inputs = shape
        scheme = self._scheme_of(checkpoint, module, num_inputs)
        group_size = num_inputs if scheme.group_size == -1 else scheme.group_size
        check_groups(module, num_inputs, group_size)
        check_shape(checkpoint, f"{module}.weight_shape", shape)
        scales = read_scales(checkpoint, f"{module}.weight_scale", (num_outputs, num_inputs // group_size))
        zeros = read_zeros(checkpoint, module, scheme, (num_outputs, num_inputs // group_size))
        order = read_order(checkpoint, f"{module}.weight_g_idx", num_inputs, group_size)
        stored = read_words(checkpoint, f"{module}.weight_packed", shape, scheme.num_bits)
        if scheme.num_bits == 8:
            return dequantize_int8(stored, scales, zeros, order)
        return packed_in_order(swap_nibbles(stored), scales, zeros, group_size, order)

    def _scheme_of(self, checkpoint: Checkpoint, module: str, num_inputs: int) -> Scheme:
        """The scheme whose tensors a module has."""
        parts = [checkpoint.tensors.get(f"{module}.{part}") for part in ("weight_packed", "weight_scale")]
        columns = [part.shape[-1] if part and part.shape else 0 for part in parts]
        symmetric = f"{module}.weight_zero_point" not in checkpoint.names
        for scheme in self.schemes:
            if scheme.symmetric == symmetric and scheme.columns(num_inputs) == columns:
                return scheme
        raise ModelError(
            f"{where(checkpoint, f'{module}.weight_packed')} and weight_scale have {columns} columns for {num_inputs} "
            f"inputs, with{'out' * symmetric} weight_zero_point: no scheme in config.json's config_groups is like that"
        )


def read_words(checkpoint: Checkpoint, name: str, shape: tuple[int, int], num_bits: int) -> torch.Tensor:
    """The bytes of packed rows: uint8 [N, K * num_bits / 8]."""
    num_outputs, num_inputs = shape
    words = checkpoint.read_as_stored(name, (num_outputs, -(-num_inputs * num_bits // 32)), torch.int32)
    return bytes_of(words)[:, : num_inputs * num_bits // 8]


def read_zeros(checkpoint: Checkpoint, module: str, scheme: Scheme, shape: tuple[int, int]) -> torch.Tensor:
    """Zero points uint8 [N, K / g]."""
    num_outputs, groups = shape
    if scheme.symmetric:
        return torch.full(shape, 1 << (scheme.num_bits - 1), dtype=torch.uint8)
    stored_shape = (-(-num_outputs * scheme.num_bits // 32), groups)
    words = checkpoint.read_as_stored(f"{module}.weight_zero_point", stored_shape, torch.int32)
    rows = bytes_of(words.T)
    values = rows if scheme.num_bits == 8 else unpack_nibbles(swap_nibbles(rows))
    return values[:, :num_outputs].T


def check_shape(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> None:
    """Raise ModelError where a module says of itself that it has another shape."""
    stored = tuple(checkpoint.read_as_stored(name, (2,), *SHAPES).tolist())
    if stored != shape:
        raise ModelError(f"{where(checkpoint, name)} is {list(stored)}, but config.json asks for {list(shape)}")


def dequantize_int8(
    values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, order: torch.Tensor | None
) -> torch.Tensor:
    """float32 [N, K] of bytes [N, K]. Who chose 8 bits did not mean 4, so these stay floats."""
    if order is not None:
        values = values[:, order]
    groups = values.view(*scales.shape, -1).float() - zeros[..., None]
    matrix = (groups * scales[..., None]).flatten(1)
    return matrix if order is None else matrix[:, order.argsort()]
