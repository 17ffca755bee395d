"""The assembly that takes int4 weights apart, one instruction after another: the interpreter runs only its twin.

The semantics are those of the PTX ISA 8.7, sections 9.7.
"""

import itertools
import re

import pytest
import torch

from kernels.triton_ops.int4_dequantize import DEQUANTIZE_BF16, DEQUANTIZE_FP16

MASK = 0xFFFFFFFF
DTYPES = {"bf16x2": torch.bfloat16, "f16x2": torch.float16}


def halves(word: int, dtype: torch.dtype) -> torch.Tensor:
    """A register as two numbers, the low one first."""
    return torch.tensor([word & 0xFFFF, word >> 16], dtype=torch.int32).to(torch.int16).view(dtype)


def add(kind: str, left: int, right: int) -> int:
    total = halves(left, DTYPES[kind]) + halves(right, DTYPES[kind])
    low, high = (int(half) & 0xFFFF for half in total.view(torch.int16))
    return low | high << 16


def permute(left: int, right: int, selector: int) -> int:
    """Byte i of the result is the one that digit i of the selector names, of left's four and then right's."""
    chosen = (left | right << 32).to_bytes(8, "little")
    return int.from_bytes(bytes(chosen[selector >> 4 * digit & 7] for digit in range(4)), "little")


def execute(operation: str, operands: list[int]) -> int:
    name, _, kind = operation.partition(".rn.")
    if name == "lop3.b32":
        assert operands[3] == 0xEA  # (a & b) | c
        return operands[0] & operands[1] | operands[2]
    if name == "prmt.b32":
        return permute(*operands)
    return {"or.b32": lambda: operands[0] | operands[1], "shr.u32": lambda: operands[0] >> operands[1],
            "add": lambda: add(kind, *operands)}[name]() & MASK  # fmt: skip


def run(assembly: str, words: int, zeros: int) -> list[int]:
    """The registers $0 to $3, given $4 and $5."""
    registers = {"$4": words, "$5": zeros}
    for line in assembly.split(";"):
        operation, _, rest = re.sub(r"[{}]", "", line).strip().partition(" ")
        if operation in ("", ".reg"):
            continue
        target, *sources = [name.strip() for name in rest.split(",")]
        operands = [registers[name] if name in registers else int(name, 0) for name in sources]
        registers[target] = execute(operation, operands)
    return [registers[f"${number}"] for number in range(4)]


@pytest.mark.parametrize(("assembly", "dtype"), [(DEQUANTIZE_BF16, torch.bfloat16), (DEQUANTIZE_FP16, torch.float16)])
def test_every_weight_less_its_zero_stands_in_its_place(assembly: object, dtype: torch.dtype) -> None:
    """Registers (k, h) of halves p: nibble h of byte (p, k), less the zero of output h."""
    generator = torch.Generator().manual_seed(0)
    for zeros in itertools.product(range(16), repeat=2):
        nibbles = torch.randint(0, 16, (2, 2, 2), generator=generator)  # p k h
        packed = bytes((nibbles[..., 0] | nibbles[..., 1] << 4).flatten().tolist())
        beside = bytes([zeros[0], zeros[0], zeros[1], zeros[1]])
        found = run(assembly.value, int.from_bytes(packed, "little"), int.from_bytes(beside, "little"))  # type: ignore[attr-defined]
        wanted = (nibbles - torch.tensor(zeros)).permute(1, 2, 0).reshape(4, 2)
        assert torch.equal(torch.stack([halves(word, dtype) for word in found]).float(), wanted.float())
