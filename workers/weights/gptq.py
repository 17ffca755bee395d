"""GPTQ's int4 checkpoints (Frantar et al. 2022, arXiv 2210.17323) as AutoGPTQ and GPTQModel write them.

A module of N outputs and K inputs in groups of g:
    qweight  int32 [K / 8, N]      input 8i + j in bits 4j to 4j + 3 of word [i, n]
    qzeros   int32 [K / g, N / 8]  output 8i + j likewise: the zero point in format "gptq_v2", one less in "gptq"
    scales   float [K / g, N]
    g_idx    int32 [K]             the group of each input; i // g unless columns were quantised in another order
    bias     only where the model has one, but zeros in old files of models that have none
"""

from dataclasses import dataclass

import torch

from kernels.int4 import PackedInt4, ReorderedInt4, swap_nibbles, unpack_nibbles
from workers.model_error import ModelError
from workers.models.config_fields import ConfigFields, shown
from workers.weights.checkpoint import Checkpoint
from workers.weights.quantized_checkpoint import bytes_of, check_groups, packed_in_order, read_order, read_scales, where

FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is to be added to stored zero points
SYMMETRIC_ZERO = 8
UNSERVED = ("dynamic", "is_marlin_format")


@dataclass(frozen=True)
class GptqLayout:
    """`workers.weights.quantized_checkpoint.Layout`.

    Attributes:
        group_size: -1 for one group of all inputs.
        act_order: columns may belong to any group (`desc_act`); g_idx must be there.
        symmetric: all zero points are 8; None where that is not said.
        zero_offset: what is to be added to stored zero points.
    """

    group_size: int
    act_order: bool
    symmetric: bool | None
    zero_offset: int
    marker = "qweight"
    required = ("qzeros", "scales")
    parts = ("qweight", "qzeros", "scales", "g_idx")

    @classmethod
    def from_config(cls, config: ConfigFields) -> "GptqLayout":
        """Raises ValueError for a scheme that is not served."""
        if config.any("bits") != 4:
            raise ValueError(f"gptq's bits is {shown(config.any('bits'))}; only 4 are served")
        format_name = config.any("checkpoint_format") or "gptq"
        if format_name not in FORMATS:
            raise ValueError(f"gptq's checkpoint_format is {shown(format_name)}; served are {', '.join(FORMATS)}")
        for key in UNSERVED:
            if config.any(key):
                raise ValueError(f"gptq's {key} is {shown(config.any(key))}; it is not served, quantise without it")
        symmetric = config.flag("sym") if "sym" in config else None
        return cls(read_group_size(config), config.flag("desc_act"), symmetric, FORMATS[format_name])

    def read(self, checkpoint: Checkpoint, module: str, shape: tuple[int, int]) -> PackedInt4 | ReorderedInt4:
        """The matrix; with act-order its columns sorted by group. Raises ModelError where a part is wrong."""
        num_outputs, num_inputs = shape
        group_size = num_inputs if self.group_size == -1 else self.group_size
        check_groups(module, num_inputs, group_size)
        if num_outputs % 8 or num_inputs % 8:
            raise ModelError(f"{module} is {list(shape)}; gptq packs multiples of 8 only")
        words = checkpoint.read_as_stored(f"{module}.qweight", (num_inputs // 8, num_outputs), torch.int32)
        nibbles = swap_nibbles(bytes_of(words.T))
        groups = num_inputs // group_size
        scales = read_scales(checkpoint, f"{module}.scales", (groups, num_outputs)).T
        zeros = self._zeros(checkpoint, f"{module}.qzeros", (groups, num_outputs)).T
        order = self._order(checkpoint, f"{module}.g_idx", num_inputs, group_size)
        return packed_in_order(nibbles, scales, zeros, group_size, order)

    def _zeros(self, checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> torch.Tensor:
        """Zero points uint8 [K / g, N]."""
        groups, num_outputs = shape
        words = checkpoint.read_as_stored(name, (groups, num_outputs // 8), torch.int32)
        stored = unpack_nibbles(swap_nibbles(bytes_of(words)))
        if self.zero_offset and (stored == 15).any():
            raise ModelError(
                f"{where(checkpoint, name)} has stored zero points of 15, which some readers of format 'gptq' take for "
                "0 and some for 16; save the model in format 'gptq_v2'"
            )
        zeros = stored + self.zero_offset
        if self.symmetric and (zeros != SYMMETRIC_ZERO).any():
            raise ModelError(
                f"{where(checkpoint, name)} has zero points other than {SYMMETRIC_ZERO}, but config.json says that the "
                "scheme is symmetric (sym); correct one of them"
            )
        return zeros

    def _order(self, checkpoint: Checkpoint, name: str, num_inputs: int, group_size: int) -> torch.Tensor | None:
        """int64 [K], the inputs sorted by group; None where they are."""
        if self.act_order and name not in checkpoint.names:
            raise ModelError(f"the checkpoint lacks {name}, but config.json says desc_act; quantise the model again")
        return read_order(checkpoint, name, num_inputs, group_size)


def read_group_size(config: ConfigFields) -> int:
    """`group_size`, -1 for all inputs. Raises ValueError for any other value that is no size."""
    return -1 if config.any("group_size") == -1 else config.integer("group_size")
