"""llama2.c's int8 files as a source of tensors, and the model that they are of."""

from pathlib import Path

import torch

from workers.model_error import ModelError
from workers.models.config_fields import ConfigFields
from workers.models.families import Traits
from workers.models.spec import ModelSpec, read_model_spec, spec_from_config
from workers.weights.checkpoint import check_values
from workers.weights.q80_file import ROTATED, Q80Header, Q80Tensor, q80_tensors, read_q80_header
from workers.weights.rotary_rows import halves_from_pairs

RMS_NORM_EPS, ROPE_THETA = 1e-5, 10000.0  # llama2.c has them in its code


def read_q80_spec(path: Path) -> ModelSpec:
    """The model's shape, from the header and what it does not say from a config.json beside it, where there is one.

    Raises ModelError where the two are not of one plain Llama.
    """
    _, header = read_q80_header(path)
    if not (path.parent / "config.json").exists():
        return spec_of(header)
    spec = read_model_spec(path.parent)
    if header_of(spec, header.group_size) != header:
        raise ModelError(f"{path} is another model's than config.json: its header is {header}")
    return spec


def header_of(spec: ModelSpec, group_size: int) -> Q80Header:
    """Raises ModelError for a model that such a file cannot hold."""
    plain = Traits(False, False, False, False, (0,) * spec.num_layers)
    if spec.traits != plain or spec.num_heads * spec.head_dim != spec.hidden_size:
        raise ModelError(
            "a llama2.c file holds plain Llamas only: no biases, windows or norms of heads, and heads that share the "
            "hidden size evenly"
        )
    header = Q80Header(
        spec.hidden_size,
        spec.intermediate_size,
        spec.num_layers,
        spec.num_heads,
        spec.num_kv_heads,
        spec.vocab_size if spec.tie_word_embeddings else -spec.vocab_size,
        spec.max_model_len,
        group_size,
    )
    try:
        header.check()
    except ValueError as error:
        raise ModelError(f"a llama2.c file cannot hold this model: {error}") from error
    return header


def spec_of(header: Q80Header) -> ModelSpec:
    """What llama2.c itself would compute."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": abs(header.signed_vocab_size),
        "hidden_size": header.hidden_size,
        "intermediate_size": header.intermediate_size,
        "num_hidden_layers": header.num_layers,
        "num_attention_heads": header.num_heads,
        "num_key_value_heads": header.num_kv_heads,
        "max_position_embeddings": header.max_len,
        "tie_word_embeddings": header.signed_vocab_size > 0,
        "rms_norm_eps": RMS_NORM_EPS,
        "rope_theta": ROPE_THETA,
    }
    return spec_from_config(ConfigFields(config))


class Q80Checkpoint:
    """`workers.weights.loader.TensorSource`. Matrices are given as floats and stay so: 8 bits were chosen, not 4."""

    keeps_floats = True

    def __init__(self, path: Path) -> None:
        """Reads the header. Raises ModelError where the file is none."""
        self._file, self._header = read_q80_header(path)
        self._tensors = {tensor.name: tensor for tensor in q80_tensors(self._header)}

    @property
    def names(self) -> set[str]:
        """All tensors."""
        return set(self._tensors)

    def read_matrix(self, name: str, shape: tuple[int, int]) -> torch.Tensor:
        """The same as `read`."""
        return self.read(name, shape)

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """As float32."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape != shape:
            raise ModelError(f"{self._file.path} has no {name} of {list(shape)}")
        data = torch.empty(tensor.num_bytes, dtype=torch.uint8)
        self._file.read_into(tensor.offset, data.numpy().data)
        floats = self._dequantize(tensor, data) if tensor.group_size else data.view(torch.float32).view(shape)
        check_values(f"{self._file.path}: {name}", floats, may_be_zero=False)
        is_paired = any(module in name for module in ROTATED)
        return floats[halves_from_pairs(shape[0], self._header.head_dim)] if is_paired else floats

    def _dequantize(self, tensor: Q80Tensor, data: torch.Tensor) -> torch.Tensor:
        num_values = tensor.num_bytes * tensor.group_size // (tensor.group_size + 4)
        values = data[:num_values].view(torch.int8).view(-1, tensor.group_size)
        scales = data[num_values:].view(torch.float32)
        if not ((scales >= 0) & scales.isfinite()).all():
            raise ModelError(
                f"{self._file.path}: {tensor.name} has scales that are negative or no numbers; export the model again"
            )
        return (values * scales[:, None]).view(tensor.shape)
