"""Taking int4 weights apart in registers, exactly.

A nibble n put into the last bits of 128 (of 1024 in float16) makes 128 + n, from which 128 + zero is subtracted: no
integer is converted (Kim et al. 2022, "Who Says Elephants Can't Run", do so in float16).
"""

import triton
import triton.language as tl

# $4 are a thread's eight weights of 16 inputs, $5 the zeros of their outputs: bytes 0 and 1 for $0 and $2, bytes 2 and
# 3 for $1 and $3.
DEQUANTIZE = """{{
.reg .b32 first, second, words;
prmt.b32 first, $5, 0, 0x4140;
prmt.b32 second, $5, 0, 0x4342;
or.b32 first, first, {minus};
or.b32 second, second, {minus};
lop3.b32 $0, $4, 0x000f000f, {plus}, 0xea;
shr.u32 words, $4, 4;
lop3.b32 $1, words, 0x000f000f, {plus}, 0xea;
shr.u32 words, $4, 8;
lop3.b32 $2, words, 0x000f000f, {plus}, 0xea;
shr.u32 words, $4, 12;
lop3.b32 $3, words, 0x000f000f, {plus}, 0xea;
add.rn.{kind} $0, $0, first;
add.rn.{kind} $1, $1, second;
add.rn.{kind} $2, $2, first;
add.rn.{kind} $3, $3, second;
}}"""
CONSTRAINTS = tl.constexpr("=r,=r,=r,=r,r,r")
DEQUANTIZE_BF16 = tl.constexpr(DEQUANTIZE.format(plus="0x43004300", minus="0xc300c300", kind="bf16x2"))
DEQUANTIZE_FP16 = tl.constexpr(DEQUANTIZE.format(plus="0x64006400", minus="0xe400e400", kind="f16x2"))


@triton.jit
def take_apart(words: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """uint8 [a, b, 4c], every four bytes (pair, half) of two nibbles (output), to the nibbles of the two halves, each
    [a, b, 4c], every four (output, pair)."""
    nibbles = tl.join(words & 15, words >> 4).reshape(words.shape[0], words.shape[1], words.shape[2] // 4, 2, 2, 2)
    early, late = tl.split(nibbles.trans(0, 1, 2, 5, 3, 4))
    return early.reshape(words.shape), late.reshape(words.shape)


@triton.jit
def dequantize(
    words: tl.tensor, zeros: tl.tensor, dtype: tl.constexpr, ASM: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """uint8 words as in int4_weight.py and zeros beside them, (output, pair) of every four, to (nibble - zero) of the
    early and the late eight inputs, in the order of the zeros."""
    if not ASM:
        early, late = take_apart(words)
        early = (early.to(tl.float32) - zeros.to(tl.float32)).to(dtype)
        late = (late.to(tl.float32) - zeros.to(tl.float32)).to(dtype)
    elif dtype == tl.bfloat16:
        early, late = tl.inline_asm_elementwise(
            DEQUANTIZE_BF16, CONSTRAINTS, [words, zeros], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    else:
        early, late = tl.inline_asm_elementwise(
            DEQUANTIZE_FP16, CONSTRAINTS, [words, zeros], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
    return early, late
