"""`config.json`: what the decoder would get wrong is refused, in words that name the file and the field."""

import json
from pathlib import Path

import pytest

from tests.helpers import edit_json
from workers.models.spec import ModelError, read_model_spec

UNSUPPORTED: list[tuple[dict[str, object], str]] = [
    ({"architectures": ["MistralForCausalLM"]}, "architectures is .'MistralForCausalLM'"),
    ({"architectures": None}, "architectures is None"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantised already"),
    ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope type is llama3"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope type is linear"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type is dynamic"),
    ({"hidden_act": "gelu"}, "hidden_act is gelu"),
    ({"attention_bias": True}, "attention_bias is set"),
    ({"mlp_bias": True}, "mlp_bias is set"),
    ({"hidden_size": -1}, "hidden_size is -1; it must be"),
    ({"num_key_value_heads": 3}, "4 heads cannot share 3 key-value heads"),
    ({"head_dim": 15}, "head_dim is 15; rotary embedding needs an even one"),
    ({"num_attention_heads": 0, "head_dim": None}, ""),
    ({"vocab_size": None}, "vocab_size"),
    ({"hidden_size": "64"}, "hidden_size"),
]


@pytest.mark.parametrize(("changes", "message"), UNSUPPORTED)
def test_what_would_give_wrong_tokens_is_refused(model_copy: Path, changes: dict[str, object], message: str) -> None:
    edit_json(model_copy / "config.json", **changes)
    with pytest.raises(ModelError, match=rf"config\.json.*{message}"):
        read_model_spec(model_copy)


@pytest.mark.parametrize("missing", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_a_missing_field_is_named(model_copy: Path, missing: str) -> None:
    path = model_copy / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config[missing]
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=rf"config\.json: '{missing}' is missing"):
        read_model_spec(model_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00\x01"])
def test_a_file_that_is_no_object_is_named(model_copy: Path, text: str) -> None:
    (model_copy / "config.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=r"config\.json"):
        read_model_spec(model_copy)


def test_a_directory_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json cannot be read.*Is this a Hugging Face model directory"):
        read_model_spec(tmp_path)


@pytest.mark.parametrize(("eos", "wanted"), [(None, set()), (7, {7}), ([7, 9], {7, 9}), (0, {0})])
def test_end_of_sequence_tokens(model_copy: Path, eos: object, wanted: set[int]) -> None:
    edit_json(model_copy / "config.json", eos_token_id=eos)
    assert read_model_spec(model_copy).eos_token_ids == wanted


@pytest.mark.parametrize(
    "changes", [{"rope_parameters": {"rope_theta": 5e5}}, {"rope_parameters": None, "rope_theta": 5e5}]
)
def test_rope_theta_of_new_and_of_old_configs(model_copy: Path, changes: dict[str, object]) -> None:
    edit_json(model_copy / "config.json", **changes)
    assert read_model_spec(model_copy).rope.theta == 5e5
