"""The packed int4 weight as the Triton kernels read it: every thread finds the bytes it multiplies side by side.

Hopper's warp-group product takes its left side from registers: of 64 rows by 16 columns, a thread of warp w and lane
4g + c holds rows 16w + g and 16w + g + 8, columns 2c, 2c + 1, 2c + 8 and 2c + 9 (PTX ISA, wgmma register fragments).
So a matrix is cut into units of 64 outputs by 64 inputs, 2048 bytes each, the bytes counted by (w, g, c, j, p, k):
16 contiguous bytes are what one thread needs in the unit's four steps j of 16 inputs. A byte holds the weights of
input 16j + 8k + 2c + p, of output 16w + g in its low nibble and of 16w + 8 + g in its high one: the four bytes of a
step, as a word, have the inputs p = 0 and 1 of a register sixteen bits apart.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.int4 import NIBBLE_MAX, PackedInt4, pack_nibbles, unpack_nibbles

UNIT = 64  # outputs and inputs of a unit
UNIT_BYTES = UNIT * UNIT // 2
PADDED_TO = 2 * UNIT  # outputs: no program, of one tile or of two, reads past the end
GROUP_SIZES = (32, 64, 128)
ZERO_BITS = 15


@dataclass(frozen=True)
class TritonInt4Weight:
    """A packed matrix [N, K]; N is padded with zeros to N_padded, a multiple of 128.

    Attributes:
        words: uint8 [N_padded / 64, K / 64, 2048], in the order of this file's head.
        coefficients: int32 [K / group_size, N_padded], the bits of a float32 scale with the group's zero (0 to 15) in
            its last four, which are 0 in any scale that was float16 or bfloat16 once. One load brings both.
        num_outputs: N, before the padding.
        num_inputs: K.
        group_size: how many consecutive weights of a row share one scale.
    """

    words: torch.Tensor
    coefficients: torch.Tensor
    num_outputs: int
    num_inputs: int
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K) of the matrix that is packed."""
        return self.num_outputs, self.num_inputs

    @property
    def num_padded(self) -> int:
        """Outputs with the padding."""
        return self.coefficients.shape[1]

    @property
    def step_size(self) -> int:
        """Inputs that a kernel takes at a time: whole groups and whole units."""
        return max(UNIT, self.group_size)

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        return self.words.nbytes + self.coefficients.nbytes


def triton_int4_fits(packed: PackedInt4) -> bool:
    """Whether `pack_for_triton` takes this weight: groups of 32, 64 or 128 that tile whole units of 64 inputs, and
    scales of at most 20 bits, as all are that were float16 or bfloat16 once."""
    num_inputs = packed.shape[1]
    tiled = packed.group_size in GROUP_SIZES and num_inputs > 0 and num_inputs % max(UNIT, packed.group_size) == 0
    return tiled and not bool((packed.scales.float().view(torch.int32) & ZERO_BITS).any())


def pack_for_triton(packed: PackedInt4) -> TritonInt4Weight:
    """Lay a packed matrix out once, at load, on the device it lies on.

    Raises:
        ValueError: the weight does not fit; ask `triton_int4_fits` first.
    """
    if not triton_int4_fits(packed):
        raise ValueError(
            f"a packed weight {packed.shape} in groups of {packed.group_size} does not fit the Triton kernels: "
            f"groups must be of {GROUP_SIZES}, the inputs a multiple of the group and of {UNIT}, scales of 20 bits"
        )
    num_outputs, num_inputs = packed.shape
    padding = (0, 0, 0, -num_outputs % PADDED_TO)
    coefficients = packed.scales.float().view(torch.int32) | packed.zeros.to(torch.int32)
    return TritonInt4Weight(
        words=pack_words(F.pad(packed.nibbles, padding)),
        coefficients=F.pad(coefficients, padding).T.contiguous(),
        num_outputs=num_outputs,
        num_inputs=num_inputs,
        group_size=packed.group_size,
    )


def unpack_from_triton(weight: TritonInt4Weight) -> PackedInt4:
    """Undo `pack_for_triton`."""
    coefficients = weight.coefficients.T[: weight.num_outputs].contiguous()
    return PackedInt4(
        nibbles=unpack_words(weight.words)[: weight.num_outputs],
        scales=(coefficients & ~ZERO_BITS).view(torch.float32),
        zeros=(coefficients & ZERO_BITS).to(torch.uint8),
        group_size=weight.group_size,
    )


def pack_words(nibbles: torch.Tensor) -> torch.Tensor:
    """uint8 [N_padded, K / 2] of two weights a byte to uint8 [N_padded / 64, K / 64, 2048]."""
    columns = nibbles.shape[1] * 2 // UNIT
    values = unpack_nibbles(nibbles).view(-1, 4, 2, 8, columns, 4, 2, 4, 2)  # tile w h g, column j k c p
    halves = values.permute(2, 0, 4, 1, 3, 7, 5, 8, 6)
    return (halves[0] | (halves[1] << 4)).reshape(-1, columns, UNIT_BYTES)


def unpack_words(words: torch.Tensor) -> torch.Tensor:
    """Undo `pack_words`: uint8 [tiles, columns, 2048] to uint8 [64 tiles, 32 columns] of two weights a byte."""
    tiles, columns = words.shape[:2]
    halves = torch.stack([words & NIBBLE_MAX, words >> 4]).view(2, tiles, columns, 4, 8, 4, 4, 2, 2)
    values = halves.permute(1, 3, 0, 4, 2, 6, 8, 5, 7)
    return pack_nibbles(values.reshape(tiles * UNIT, columns * UNIT))
