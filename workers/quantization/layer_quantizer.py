"""One decoder layer's matrices rounded by one of the methods."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from workers.models.spec import ModelSpec
from workers.quantization.awq import search_scales, share_heads
from workers.quantization.float_layer import SHARED_INPUTS
from workers.quantization.folding import Tensors, fold_scales
from workers.quantization.gptq import Gptq
from workers.quantization.grid import Grid, Quantized, Scheme
from workers.quantization.input_statistics import InputStatistics
from workers.quantization.options import QuantizeOptions
from workers.quantization.ranges import fit_grid

Statistics = Mapping[str, InputStatistics]


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's tensors by their names within it.

    Attributes:
        matrices: the rounded ones, without ".weight".
        others: norms and biases, float32, with values that the checkpoint's dtype has.
    """

    matrices: Mapping[str, Quantized]
    others: Tensors

    @property
    def tensors(self) -> Tensors:
        """All as float32."""
        return {**self.others, **{f"{name}.weight": matrix.values for name, matrix in self.matrices.items()}}


class LayerQuantizer:
    """Rounds layers of one model.

    Args:
        dtype: of the checkpoint: what scales, norms and biases are stored as.
    """

    def __init__(self, spec: ModelSpec, options: QuantizeOptions, dtype: torch.dtype) -> None:
        self._spec = spec
        self._options = options
        self._dtype = dtype
        self._scheme = Scheme(options.bits, options.symmetric, dtype)

    def __call__(self, tensors: Mapping[str, torch.Tensor], statistics: Statistics) -> QuantizedLayer:
        """Round a layer.

        Args:
            tensors: float32, by their names within the layer.
            statistics: of each of `SHARED_INPUTS`; empty for methods that look at weights only.
        """
        layer = dict(tensors)
        grams = {inputs: known.gram for inputs, known in statistics.items()}
        if self._options.method == "awq":
            grams = {inputs: self._scale_up(layer, inputs, known) for inputs, known in statistics.items()}
        matrices = {
            name: quantized
            for inputs, names in SHARED_INPUTS.items()
            for name, quantized in self._round(layer, names, grams.get(inputs)).items()
        }
        others = {name: tensor for name, tensor in layer.items() if name.removesuffix(".weight") not in matrices}
        return QuantizedLayer(matrices, {name: tensor.to(self._dtype).float() for name, tensor in others.items()})

    def _round(self, layer: Tensors, names: tuple[str, ...], gram: torch.Tensor | None) -> dict[str, Quantized]:
        """Matrices with the same inputs."""
        weights = {name: layer[f"{name}.weight"] for name in names}
        grids = {name: self._fit(weight, gram) for name, weight in weights.items()}
        if self._options.method == "gptq" and gram is not None:
            gptq = Gptq(gram)
            return {name: gptq.quantize(weight, grids[name]) for name, weight in weights.items()}
        return {name: Quantized(grids[name].round(weight), grids[name]) for name, weight in weights.items()}

    def _fit(self, weight: torch.Tensor, gram: torch.Tensor | None) -> Grid:
        options = self._options
        return fit_grid(weight, self._scheme, options.granularity, options.group_size, options.search, gram)

    def _scale_up(self, layer: Tensors, inputs: str, statistics: InputStatistics) -> torch.Tensor:
        """Scale the weights of the inputs that matter, in place; returns the gram of the inputs as they are then."""
        names = [f"{name}.weight" for name in SHARED_INPUTS[inputs]]
        sizes, gram = statistics.sizes, statistics.gram
        if inputs == "attended":
            sizes = share_heads(sizes, self._spec.num_kv_heads, self._spec.head_dim)
        scales = search_scales([layer[name] for name in names], sizes, gram, self._round_plainly)
        scales = fold_scales(layer, inputs, scales, self._spec, self._dtype)
        for name in names:
            layer[name] = layer[name] * scales
        return gram / torch.outer(scales, scales)

    def _round_plainly(self, weight: torch.Tensor) -> torch.Tensor:
        """Between the least and the largest weight of each group, as the paper does while it looks for scales."""
        options = self._options
        return fit_grid(weight, self._scheme, options.granularity, options.group_size, "minmax").nearest(weight)
