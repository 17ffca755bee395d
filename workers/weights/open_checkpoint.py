"""Which reader a checkpoint needs."""

from collections.abc import Callable
from pathlib import Path

from workers.models.config_fields import ConfigFields, shown
from workers.models.spec import ModelSpec, read_checked
from workers.weights.awq import AwqLayout
from workers.weights.checkpoint import Checkpoint, check_tensors
from workers.weights.compressed_tensors import CompressedTensorsLayout
from workers.weights.gptq import GptqLayout
from workers.weights.loader import TensorSource
from workers.weights.quantized_checkpoint import Layout, QuantizedCheckpoint

LAYOUTS: dict[str, Callable[[ConfigFields], Layout]] = {
    "awq": AwqLayout.from_config,
    "compressed-tensors": CompressedTensorsLayout.from_config,
    "gptq": GptqLayout.from_config,
}


def open_checkpoint(model_dir: Path, spec: ModelSpec) -> TensorSource:
    """The tensors of a model directory, quantised as its config.json says.

    Raises ModelError for a format that is not served, or files whose headers are not those of the model.
    """
    layout = read_checked(model_dir / "config.json", read_layout)
    checkpoint = Checkpoint(model_dir)
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
