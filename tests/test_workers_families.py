"""What `config.json` says of a model's family, read for the configurations that Transformers' own classes write."""

import json
from pathlib import Path

import pytest

from tests.families import VARIANTS, config_of
from workers.models.config_fields import ConfigFields
from workers.models.families import Traits, read_traits

SLIDING: dict[str, object] = {"use_sliding_window": True, "sliding_window": 19, "max_window_layers": 1}
WANTED = {
    "llama": Traits(False, False, False, False, (0, 0)),
    "llama-biases": Traits(True, True, True, False, (0, 0)),
    "mistral": Traits(False, False, False, False, (0, 0)),
    "mistral-window": Traits(False, False, False, False, (19, 19)),
    "qwen2": Traits(True, False, False, False, (0, 0)),
    "qwen2-window": Traits(True, False, False, False, (0, 19)),
    "qwen3": Traits(False, False, False, True, (0, 0)),
    "qwen3-everything": Traits(True, True, False, True, (33, 0)),
}


def fields_of(variant: str, path: Path, **changes: object) -> dict[str, object]:
    """The file that Transformers writes, changed; a value of ... takes a field out."""
    config_of(variant).save_pretrained(path)
    fields = json.loads((path / "config.json").read_text("utf-8")) | {
        "architectures": [f"{VARIANTS[variant][0]}ForCausalLM"]
    }
    return {key: value for key, value in (fields | changes).items() if value is not ...}


def read(variant: str, path: Path, **changes: object) -> Traits:
    return read_traits(ConfigFields(fields_of(variant, path, **changes)))


@pytest.mark.parametrize("variant", WANTED)
def test_the_configurations_of_transformers(variant: str, tmp_path: Path) -> None:
    assert read(variant, tmp_path) == WANTED[variant]


@pytest.mark.parametrize(
    ("variant", "changes", "windows"),
    [
        ("qwen2", {**SLIDING, "layer_types": ...}, (0, 19)),
        ("qwen2", {**SLIDING, "layer_types": None, "max_window_layers": 0}, (19, 19)),
        ("qwen2", {**SLIDING, "layer_types": None, "max_window_layers": 28}, (0, 0)),
        ("qwen2", {**SLIDING, "layer_types": None, "sliding_window": None}, (0, 0)),
        ("qwen2", {**SLIDING, "layer_types": None, "use_sliding_window": False}, (0, 0)),
        ("qwen3", {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]}, (19, 0)),
        ("mistral", {"sliding_window": 19, "layer_types": ["sliding_attention"] * 2}, (19, 19)),
        ("mistral", {"sliding_window": None, "layer_types": ["full_attention"] * 2}, (0, 0)),
    ],
)
def test_windows(variant: str, changes: dict[str, object], windows: tuple[int, ...], tmp_path: Path) -> None:
    assert read(variant, tmp_path, **changes).windows == windows


@pytest.mark.parametrize("model_type", [..., None, "llama"])
def test_a_model_type_may_be_missing(model_type: object, tmp_path: Path) -> None:
    assert read("llama", tmp_path, model_type=model_type) == WANTED["llama"]


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (
            "llama",
            {"architectures": None},
            "architectures is None; served are LlamaForCausalLM, Mistral",
        ),
        (
            "llama",
            {"architectures": ["GemmaForCausalLM"]},
            r"is \['GemmaForCausalLM'\]; served are Llama",
        ),
        ("llama", {"architectures": ["LlamaForCausalLM"] * 2}, "architectures is"),
        ("llama", {"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'"),
        ("llama", {"architectures": [["LlamaForCausalLM"]]}, "architectures is"),
        ("llama", {"architectures": []}, r"architectures is \[\]"),
        ("llama", {"model_type": "mistral"}, "model_type is 'mistral', but LlamaForCausalLM is 'llama'"),
        ("llama", {"model_type": {}}, "model_type is {}"),
        ("llama", {"attention_bias": "true"}, "attention_bias is 'true'; it must be true or false"),
        ("llama", {"mlp_bias": 1}, "mlp_bias is 1"),
        ("mistral", {"attention_bias": True}, "attention_bias is set, but MistralForCausalLM has no such bias"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias is set, but Qwen2ForCausalLM has no such bias"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias is set, but Qwen3ForCausalLM has no such bias"),
        ("mistral", {"sliding_window": ...}, "sliding_window is missing"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0; it must be an integer from 1"),
        ("mistral", {"sliding_window": -1}, "sliding_window is -1"),
        ("mistral", {"sliding_window": True}, "sliding_window is True"),
        ("mistral-window", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types differ"),
        ("qwen2", {**SLIDING, "sliding_window": ...}, "sliding_window is missing"),
        ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'"),
        ("qwen2", {**SLIDING, "layer_types": None, "max_window_layers": ...}, "max_window_layers is None; with a"),
        ("qwen2", {**SLIDING, "layer_types": None, "max_window_layers": -1}, "max_window_layers is -1"),
        ("qwen3", {**SLIDING, "layer_types": ["full_attention"]}, "layer_types must be 2 times"),
        ("qwen3", {**SLIDING, "layer_types": ["full_attention", "chunked_attention"]}, "layer_types must be 2 times"),
        ("qwen3", {**SLIDING, "layer_types": ["full_attention", []]}, "layer_types must be 2 times"),
        ("qwen3", {**SLIDING, "layer_types": "full"}, "layer_types must be 2 times"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 2}, "has 'sliding_attention', but no sliding_window is in"),
        ("qwen3", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ],
)
def test_what_would_give_wrong_tokens_is_refused(
    variant: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(variant, tmp_path, **changes)
