"""AWQ: factors that move between operations without changing what a layer computes, and help when it is rounded."""

import pytest
import torch

from tests.families import save_random_model
from workers.config import WeightConfig
from workers.models.rope import rope_tables
from workers.perplexity import all_logits, load_decoder
from workers.quantization.awq import EXPONENTS, scales_of, search_scales, share_heads
from workers.quantization.float_layer import SHARED_INPUTS, FloatLayer
from workers.quantization.float_model import FloatModel
from workers.quantization.folding import Tensors, fold_scales
from workers.quantization.grid import Scheme
from workers.quantization.input_statistics import output_error
from workers.quantization.ranges import fit_grid

FLOAT = WeightConfig(quantization="none", dtype="float32", numerics="fast", device="cpu")
NUM_TOKENS = 60


@pytest.fixture(scope="module", params=["llama-mqa", "llama-biases", "mistral-window", "qwen2", "qwen3-everything"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FloatModel:
    return FloatModel(save_random_model(tmp_path_factory.mktemp("model"), request.param))


def layer_of(model: FloatModel, tensors: Tensors, index: int = 0) -> FloatLayer:
    rope = rope_tables(model.spec.rope, model.spec.head_dim, NUM_TOKENS, torch.device("cpu"))
    return FloatLayer(model.spec, tensors, rope, model.spec.traits.windows[index])


def test_float_layers_compute_what_the_decoder_computes(model: FloatModel) -> None:
    tokens = torch.arange(NUM_TOKENS) * 7 % 256
    hidden = model.embedding()[tokens].float()
    for index in range(model.spec.num_layers):
        hidden = layer_of(model, model.layer(index), index)(hidden)
    decoder = load_decoder(model.directory, FLOAT)
    with torch.inference_mode():
        torch.testing.assert_close(decoder.weights.lm_head(hidden), all_logits(decoder, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_factors_change_nothing_before_rounding(model: FloatModel, dtype: torch.dtype) -> None:
    tensors = model.layer(0)
    hidden = model.embedding()[:NUM_TOKENS].float()
    expected = layer_of(model, tensors)(hidden)
    folded = dict(tensors)
    generator = torch.Generator().manual_seed(2)
    for inputs, names in SHARED_INPUTS.items():
        wanted = torch.rand(tensors[f"{names[0]}.weight"].shape[1], generator=generator) * 4 + 0.25
        if inputs == "attended":
            wanted = share_heads(wanted, model.spec.num_kv_heads, model.spec.head_dim)
        scales = fold_scales(folded, inputs, wanted, model.spec, dtype)
        torch.testing.assert_close(scales, wanted, rtol=2**-7, atol=0)
        for name in names:
            folded[f"{name}.weight"] = folded[f"{name}.weight"] * scales
    assert not torch.equal(folded["input_layernorm.weight"], tensors["input_layernorm.weight"])
    assert not torch.equal(folded["mlp.up_proj.weight"], tensors["mlp.up_proj.weight"])
    torch.testing.assert_close(layer_of(model, folded)(hidden), expected, rtol=1e-4, atol=1e-3)


def test_heads_that_share_values_share_their_factors() -> None:
    sizes = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0])  # 4 heads of 2, two to a head of values
    assert share_heads(sizes, num_kv_heads=2, head_dim=2).tolist() == [2, 3, 2, 3, 20, 30, 20, 30]


def test_large_inputs_are_scaled_up_and_outputs_change_less() -> None:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(64, 32, generator=generator)
    inputs = torch.randn(500, 32, generator=generator)
    inputs[:, [5, 17]] *= 40
    gram = inputs.T @ inputs / len(inputs)

    def rounded(matrix: torch.Tensor) -> torch.Tensor:
        return fit_grid(matrix, Scheme(4, symmetric=False), "group", 32, "minmax").nearest(matrix)

    scales = search_scales([weight], inputs.abs().mean(0), gram, rounded)
    others = [index for index in range(32) if index not in (5, 17)]
    assert scales[[5, 17]].min() > 1.5 * scales[others].max()
    error = output_error(rounded(weight * scales) / scales - weight, gram)
    assert error < 0.6 * output_error(rounded(weight) - weight, gram)


def test_an_exponent_of_zero_scales_nothing_and_unused_inputs_get_a_factor() -> None:
    sizes = torch.tensor([0.0, 1.0, 100.0])
    assert scales_of(sizes, 0.0).tolist() == [1, 1, 1]
    assert all(bool(scales_of(sizes, exponent).isfinite().all()) for exponent in EXPONENTS)
    assert (scales_of(torch.zeros(3), 0.95) == 1).all()
