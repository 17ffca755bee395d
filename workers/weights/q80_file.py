"""llama2.c's files of int8 weights, version 3 as KuiperLLama's tools/export.py defines it (`legacy_export_quant`).

Eight int32: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size (negative where the head is not tied),
max_seq_len, group_size. Then the matrices, kind by kind and of each kind all layers: wq, wk, wv, wo, w1 (gate), w2
(down), w3 (up), and the head where it is not tied: int8, followed by a float32 scale for each group of its values. Then
float32: the embedding, the norms before attention, those before the MLP, and the last one. All little-endian. Rows of
wq and wk stand in pairs (`rotary_rows.py`). There is no magic number, but the header says how long the file must be.
"""

import struct
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from math import prod
from pathlib import Path

from workers.model_error import ModelError
from workers.models.config_fields import MAX_SIZE
from workers.weights.model_file import ModelFile, find_file

HEADER = struct.Struct("<8i")
MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj",
)  # fmt: skip
NORMS = ("input_layernorm", "post_attention_layernorm")
ROTATED = MATRICES[:2]


@dataclass(frozen=True)
class Q80Header:
    """The eight numbers in their order."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    signed_vocab_size: int
    max_len: int
    group_size: int

    @property
    def head_dim(self) -> int:
        """Of every head."""
        return self.hidden_size // self.num_heads

    def packed(self) -> bytes:
        """As it begins a file."""
        return HEADER.pack(*astuple(self))

    def check(self) -> None:
        """Raise ValueError for numbers that no model has."""
        sizes = {**asdict(self), "signed_vocab_size": abs(self.signed_vocab_size)}
        if not all(1 <= size <= MAX_SIZE for size in sizes.values()):
            raise ValueError(f"its header is {list(astuple(self))}")
        heads, kv_heads, group_size = self.num_heads, self.num_kv_heads, self.group_size
        if self.hidden_size % heads or self.head_dim % 2 or heads % kv_heads:
            raise ValueError(f"{heads} heads and {kv_heads} key-value heads do not fit a size of {self.hidden_size}")
        if self.hidden_size % group_size or self.intermediate_size % group_size:
            raise ValueError(
                f"groups of {group_size} do not tile rows of {self.hidden_size} and {self.intermediate_size}"
            )


@dataclass(frozen=True)
class Q80Tensor:
    """A tensor in a file.

    Attributes:
        group_size: of int8 values; 0 for float32.
        offset: of its first byte.
    """

    name: str
    shape: tuple[int, ...]
    group_size: int
    offset: int

    @property
    def num_bytes(self) -> int:
        """Its size, scales included."""
        values = prod(self.shape)
        return values + values // self.group_size * 4 if self.group_size else values * 4


def read_q80_header(path: Path) -> tuple[ModelFile, Q80Header]:
    """Raises ModelError for a file that is no such file, of which there are many called .bin; none is unpickled."""
    file = find_file(path.parent, path.name)
    try:
        header = Q80Header(*HEADER.unpack(file.read(0, min(file.num_bytes, HEADER.size))))
        header.check()
        end = 0
        for tensor in q80_tensors(header):
            end = tensor.offset + tensor.num_bytes
            if end > file.num_bytes:
                break
        if end != file.num_bytes:
            raise ValueError(f"it has {file.num_bytes} bytes, and its header asks for others")
    except (ValueError, struct.error) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path} is no llama2.c file of version 3 (int8): {error}. Pickled checkpoints are never opened"
        ) from error
    return file, header


def q80_tensors(header: Q80Header) -> Iterator[Q80Tensor]:
    """All tensors in their order, by Hugging Face's names."""
    offset = HEADER.size
    for name, shape, quantized in named_shapes(header):
        tensor = Q80Tensor(name, shape, header.group_size if quantized else 0, offset)
        offset += tensor.num_bytes
        yield tensor


def named_shapes(header: Q80Header) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape, and whether it is int8. One at a time: a damaged header may claim millions of layers."""
    hidden, inner, vocab = header.hidden_size, header.intermediate_size, abs(header.signed_vocab_size)
    kv_size = header.num_kv_heads * header.head_dim
    rows = dict(zip(MATRICES, (hidden, kv_size, kv_size, hidden, inner, hidden, inner), strict=True))
    for module in MATRICES:
        columns = inner if module == "mlp.down_proj" else hidden
        for layer in range(header.num_layers):
            yield f"model.layers.{layer}.{module}.weight", (rows[module], columns), True
    if header.signed_vocab_size < 0:
        yield "lm_head.weight", (vocab, hidden), True
    yield "model.embed_tokens.weight", (vocab, hidden), False
    for norm in NORMS:
        for layer in range(header.num_layers):
            yield f"model.layers.{layer}.{norm}.weight", (hidden,), False
    yield "model.norm.weight", (hidden,), False
