"""From a checkpoint of floats to a quantised one, layer by layer.

In memory are one layer and, for methods that look at activations, the residual streams of the calibration text: each
layer is calibrated on what the quantised layers before it make of the text.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kernels.int4 import check_group_size, dequantize
from workers.models.config_fields import ConfigFields
from workers.models.rope import rope_tables
from workers.models.spec import ModelSpec
from workers.models.tensor_shapes import layer_shapes
from workers.quantization.calibration import CONTEXT, CalibrationText, read_calibration
from workers.quantization.float_layer import MATRICES, SHARED_INPUTS, FloatLayer
from workers.quantization.float_model import CONFIG_FILE, FloatModel
from workers.quantization.folding import Tensors
from workers.quantization.input_statistics import InputStatistics
from workers.quantization.layer_quantizer import LayerQuantizer, QuantizedLayer
from workers.quantization.options import QuantizeOptions
from workers.quantization.pack_quantized import quantization_config, stored_tensors
from workers.quantization.unfinished_model import UnfinishedModel
from workers.validation import RequestError
from workers.weights.checkpoint import Checkpoint
from workers.weights.compressed_tensors import CompressedTensorsLayout
from workers.weights.manifest import MANIFEST_FILE, Making, write_manifest
from workers.weights.model_digest import model_digest
from workers.weights.model_dir import model_files
from workers.weights.shards import INDEX_FILE


def quantize_model(source: Path, destination: Path, options: QuantizeOptions, calibration_file: Path | None) -> None:
    """Quantise the model in `source` into `destination`, or go on with it where an earlier run ended.

    Raises:
        ModelError: the source holds no model of floats.
        RequestError: the options do not fit the model, the calibration text is none or too short, or the destination
            holds something else.
    """
    model = FloatModel(source)
    check_sizes(model.spec, options)
    calibration = calibration_for(options, calibration_file, model)
    making = Making(options.method, options.as_dict(), calibration.about if calibration else None)
    ModelQuantizer(model, destination, options, making, calibration).run()


def check_sizes(spec: ModelSpec, options: QuantizeOptions) -> None:
    """Raise RequestError where groups do not tile a matrix."""
    for name, shape in layer_shapes(spec):
        if len(shape) == 2 and options.granularity == "group":
            try:
                check_group_size(shape[1], options.group_size)
            except ValueError as error:
                raise RequestError(f"{name}: {error}") from error


def calibration_for(options: QuantizeOptions, file: Path | None, model: FloatModel) -> CalibrationText | None:
    """Raises RequestError where there is a text that is not needed, or none that is."""
    if options.needs_calibration and file is None:
        raise RequestError(f"{options.method} looks at activations; give a text with --calibration")
    if not options.needs_calibration and file is not None:
        raise RequestError(f"{options.method} looks at weights alone; leave --calibration out, or take gptq or awq")
    return None if file is None else read_calibration(file, model.directory, model.spec)


class ModelQuantizer:
    """One run."""

    def __init__(
        self,
        model: FloatModel,
        destination: Path,
        options: QuantizeOptions,
        making: Making,
        calibration: CalibrationText | None,
    ) -> None:
        self._model = model
        self._destination = destination
        self._options = options
        self._making = making
        self._calibration = calibration
        self._quantize = LayerQuantizer(model.spec, options, model.dtype)
        self._rope = rope_tables(model.spec.rope, model.spec.head_dim, CONTEXT, torch.device("cpu"))
        self._unfinished = UnfinishedModel(destination, self._about(), model.spec.num_layers + 1)

    @torch.inference_mode()
    def run(self) -> None:
        """Quantise what is not yet, and write what stands beside the shards."""
        self._quantize_layers()
        if self._unfinished.num_finished == self._model.spec.num_layers:
            self._unfinished.add(self._model.outside_layers())
        self._unfinished.write_index()
        for file in model_files(self._model.directory):
            if file.path.suffix != ".safetensors" and file.path.name not in (CONFIG_FILE, INDEX_FILE, MANIFEST_FILE):
                shutil.copyfile(file.target, self._destination / file.path.name)
        config = {**self._model.config, "quantization_config": quantization_config(self._options)}
        self._unfinished.write_json(CONFIG_FILE, config)  # from here on it is a model that can be served
        write_manifest(self._destination, self._making)
        self._unfinished.finish()

    def _about(self) -> dict[str, Any]:
        """What must be the same for a later run to go on with this one."""
        calibration = self._making.calibration
        return {
            "source": model_digest(self._model.directory),
            "method": self._making.method,
            "options": dict(self._making.options),
            "calibration": calibration.sha256 if calibration else None,
        }

    def _quantize_layers(self) -> None:
        done, hidden = self._unfinished.num_finished, self._embedded()
        if done:
            self._unfinished.write_index()  # for what is read back
        layers = range(0 if hidden else done, self._model.spec.num_layers)
        for index in tqdm(layers, "Quantising", unit="layer", disable=None):  # none where stderr is no terminal
            tensors = self._read_back(index) if index < done else self._quantize_layer(index, hidden)
            layer = self._float_layer(index, tensors)
            for text, rows in enumerate(hidden):
                hidden[text] = layer(rows)

    def _quantize_layer(self, index: int, hidden: list[torch.Tensor]) -> Tensors:
        """Quantise a layer and write it; what has become of its tensors, float32."""
        tensors = self._model.layer(index)
        layer = self._quantize(tensors, self._observe(index, tensors, hidden))
        self._unfinished.add(stored_layer(index, layer, self._model.dtype))
        return layer.tensors

    def _observe(self, index: int, tensors: Tensors, hidden: list[torch.Tensor]) -> dict[str, InputStatistics]:
        """What a layer's matrices are multiplied with; nothing where there is no text."""
        if not hidden:
            return {}
        sizes = {inputs: tensors[f"{names[0]}.weight"].shape[1] for inputs, names in SHARED_INPUTS.items()}
        statistics = {inputs: InputStatistics(size) for inputs, size in sizes.items()}
        layer = self._float_layer(index, tensors)
        for text in hidden:
            layer(text, lambda inputs, rows: statistics[inputs].add(rows))
        return statistics

    def _embedded(self) -> list[torch.Tensor]:
        """The residual streams of the calibration texts before the first layer."""
        if self._calibration is None:
            return []
        table = self._model.embedding()
        return [table[text].float() for text in self._calibration.texts]

    def _float_layer(self, index: int, tensors: Tensors) -> FloatLayer:
        spec = self._model.spec
        return FloatLayer(spec, tensors, self._rope, spec.traits.windows[index])

    def _read_back(self, index: int) -> Tensors:
        """A layer that an earlier run has quantised, float32."""
        config = ConfigFields(quantization_config(self._options))
        layout, checkpoint = CompressedTensorsLayout.from_config(config), Checkpoint(self._destination)
        tensors = {}
        for name, shape in layer_shapes(self._model.spec):
            full = f"model.layers.{index}.{name}"
            if name.removesuffix(".weight") in MATRICES:
                matrix = layout.read(checkpoint, full.removesuffix(".weight"), (shape[0], shape[1]))
                tensors[name] = matrix if isinstance(matrix, torch.Tensor) else dequantize(matrix, torch.float32)
            else:
                tensors[name] = checkpoint.read(full, shape).float()
        return tensors


def stored_layer(index: int, layer: QuantizedLayer, dtype: torch.dtype) -> Tensors:
    """A layer's tensors by their full names, as they are stored."""
    prefix = f"model.layers.{index}"
    stored = {f"{prefix}.{name}": tensor.to(dtype) for name, tensor in layer.others.items()}
    for name, matrix in layer.matrices.items():
        stored |= stored_tensors(f"{prefix}.{name}", matrix)
    return stored
