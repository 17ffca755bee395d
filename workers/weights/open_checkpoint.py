"""Which reader a model needs: for a directory of safetensors, quantised or not, or a file of GGUF's or llama2.c's."""

from collections.abc import Callable
from pathlib import Path

from workers.models.config_fields import ConfigFields, shown
from workers.models.spec import ModelSpec, read_checked, read_model_spec
from workers.weights.awq import AwqLayout
from workers.weights.checkpoint import Checkpoint, check_tensors
from workers.weights.compressed_tensors import CompressedTensorsLayout
from workers.weights.gptq import GptqLayout
from workers.weights.loader import TensorSource
from workers.weights.model_dir import GGUF, LLAMA2_C
from workers.weights.q80_checkpoint import Q80Checkpoint, read_q80_spec
from workers.weights.quantized_checkpoint import Layout, QuantizedCheckpoint

LAYOUTS: dict[str, Callable[[ConfigFields], Layout]] = {
    "awq": AwqLayout.from_config,
    "compressed-tensors": CompressedTensorsLayout.from_config,
    "gptq": GptqLayout.from_config,
}


def read_spec(model: Path) -> ModelSpec:
    """The shape of the model in a directory or a file. Raises ModelError for one that is not served."""
    if model.suffix == LLAMA2_C:
        return read_q80_spec(model)
    if model.suffix != GGUF:
        return read_model_spec(model)
    from workers.weights.gguf_spec import read_gguf_spec  # half a second to import, and only for such files

    return read_gguf_spec(model)


def open_checkpoint(model: Path, spec: ModelSpec) -> TensorSource:
    """The tensors of a file, or of a directory, quantised as its config.json says.

    Raises ModelError for a format that is not served, or files whose headers are not those of the model.
    """
    if model.suffix == LLAMA2_C:
        return Q80Checkpoint(model)
    if model.suffix == GGUF:
        from workers.weights.gguf_checkpoint import GgufCheckpoint  # likewise

        return GgufCheckpoint(model, spec)
    layout = read_checked(model / "config.json", read_layout)
    checkpoint = Checkpoint(model)
    if layout is None:
        check_tensors(checkpoint, spec)
        return checkpoint
    return QuantizedCheckpoint(checkpoint, layout, spec)


def read_layout(config: ConfigFields) -> Layout | None:
    """What `quantization_config` describes, None where there is none. Raises ValueError for what is not served."""
    if "quantization_config" not in config:
        return None
    fields = ConfigFields(config.object("quantization_config"))
    method = fields.any("quant_method")
    if not isinstance(method, str) or method not in LAYOUTS:
        raise ValueError(
            f"quantization_config's quant_method is {shown(method)}; served are {', '.join(LAYOUTS)} of int4, "
            "or the model before it was quantised"
        )
    return LAYOUTS[method](fields)
