"""The tensors that a configuration implies, against those that Transformers' own classes save."""

from itertools import islice
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.families import VARIANTS, save_random_model
from tests.tiny_checkpoint import CONFIG
from workers.models.config_fields import ConfigFields
from workers.models.spec import read_model_spec, spec_from_config
from workers.models.tensor_shapes import tensor_shapes

KINDS = ["llama", "llama-mqa", "llama-biases", "mistral", "qwen2", "qwen3", "qwen3-everything"]


@pytest.mark.parametrize("variant", KINDS)
def test_they_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    saved = load_file(save_random_model(tmp_path, variant) / "model.safetensors")
    assert dict(tensor_shapes(read_model_spec(tmp_path))) == {name: tuple(t.shape) for name, t in saved.items()}


def test_every_family_is_among_them() -> None:
    assert {VARIANTS[kind][0] for kind in KINDS} == {family for family, _ in VARIANTS.values()}


def test_a_model_of_millions_of_layers_is_not_listed_at_once() -> None:
    spec = spec_from_config(ConfigFields(CONFIG | {"num_hidden_layers": 2**22}))
    assert len(list(islice(tensor_shapes(spec), 100))) == 100
