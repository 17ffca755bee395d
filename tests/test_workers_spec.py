"""What the decoder would get wrong is refused, in words that name the file and the field."""

import json
import math
from pathlib import Path

import pytest

from tests.families import LLAMA3, YARN
from tests.helpers import edit_json, generate, request_of, small_engine
from workers.models.spec import ModelError, ModelSpec, read_model_spec
from workers.request import RequestError

UNSUPPORTED: list[tuple[dict[str, object], str]] = [
    ({"architectures": ["GemmaForCausalLM"]}, "architectures is .'GemmaForCausalLM'.; served are Llama"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None}, "rope type dynamic is not served"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is served"),
    ({"hidden_act": ["silu"]}, "hidden_act is"),
    ({"hidden_size": -1}, "hidden_size is -1; it must be an integer from 1 to"),
    ({"hidden_size": "64"}, "hidden_size is '64'"),
    ({"intermediate_size": 128.0}, "intermediate_size is 128.0"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    ({"num_hidden_layers": 10**30}, "num_hidden_layers is 10"),
    ({"vocab_size": 0}, "vocab_size is 0"),
    ({"vocab_size": None}, "vocab_size is missing"),
    ({"num_key_value_heads": 3}, "4 heads cannot share 3 key-value heads"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    ({"num_key_value_heads": False}, "num_key_value_heads is False"),
    ({"head_dim": 15}, "head_dim is 15; rotary embedding needs an even one"),
    ({"head_dim": 0}, "head_dim is 0"),
    ({"head_dim": None, "hidden_size": 66}, "hidden_size 66 is no multiple of 4 heads"),
    ({"head_dim": None, "num_attention_heads": 128}, "hidden_size 64 is no multiple of 128 heads"),
    ({"num_attention_heads": 0, "head_dim": None}, "num_attention_heads is 0"),
    ({"rms_norm_eps": 0}, "rms_norm_eps is 0; it must be a number from 1e-20 to 1"),
    ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'"),
    ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
    ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
    ({"max_position_embeddings": 2**40}, "max_position_embeddings is 1099511627776"),
    (
        {"max_position_embeddings": 2**20, "rope_parameters": {"rope_type": "linear", "factor": 8}},
        "the context is 8388608 tokens; at most 4194304 are served",
    ),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; it must be a token id or a list"),
    ({"eos_token_id": True}, "eos_token_id is True"),
    ({"eos_token_id": [3, 256]}, "eos_token_id is 256, but the vocabulary has 256 tokens; name the token that ends"),
    ({"eos_token_id": [3, -1]}, "eos_token_id is .3, -1."),
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
    with pytest.raises(ModelError, match=rf"config\.json: {missing} is missing"):
        read_model_spec(model_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00\x01", "[" * 100_000])
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
    ("generation", "wanted"),
    [
        ({}, {7, 9}),
        ({"eos_token_id": None, "temperature": 0.6}, {7, 9}),
        ({"eos_token_id": 11}, {7, 9, 11}),
        ({"eos_token_id": [9, 0]}, {0, 7, 9}),
    ],
)
def test_generation_config_adds_end_of_sequence_tokens(
    model_copy: Path, generation: dict[str, object], wanted: set[int]
) -> None:
    edit_json(model_copy / "config.json", eos_token_id=[7, 9])
    (model_copy / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    assert read_model_spec(model_copy).eos_token_ids == wanted


def test_a_token_of_generation_config_ends_a_sequence(model_copy: Path) -> None:
    """The engine heeds it."""
    (model_copy / "generation_config.json").unlink(missing_ok=True)
    before = generate(small_engine(model_copy).engine, [request_of("a", [1, 2, 3], 8)])["a"]
    generation = json.dumps({"eos_token_id": [before[3]]})
    (model_copy / "generation_config.json").write_text(generation, "utf-8")
    after = generate(small_engine(model_copy).engine, [request_of("a", [1, 2, 3], 8)])["a"]
    assert after == before[: before.index(before[3]) + 1]
    assert len(after) < len(before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[1]", "must hold an object, not a list"),
        ('{"eos_token_id": "</s>"}', "eos_token_id is '</s>'; it must be a token id or a list of them"),
        ('{"eos_token_id": [1, true]}', "eos_token_id is .1, True."),
        ('{"eos_token_id": -1}', "eos_token_id is -1"),
        ('{"eos_token_id": 2.0}', "eos_token_id is 2.0"),
        ('{"eos_token_id": [1, 256]}', "eos_token_id is 256, but the vocabulary has 256 tokens"),
        ('{"eos_token_id": ' + "[" * 900 + "]" * 900 + "}", "eos_token_id is"),
    ],
)
def test_a_bad_generation_config_is_named(model_copy: Path, text: str, message: str) -> None:
    (model_copy / "generation_config.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=rf"generation_config\.json.*{message}"):
        read_model_spec(model_copy)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 512),
        ({"rope_parameters": {"rope_type": "linear", "factor": 3.0}}, 1536),
        ({"rope_parameters": LLAMA3}, 512),
        ({"rope_parameters": YARN}, 256),
    ],
)
def test_the_context_served_is_the_scaled_one(model_copy: Path, changes: dict[str, object], wanted: int) -> None:
    edit_json(model_copy / "config.json", **changes)
    assert read_model_spec(model_copy).max_model_len == wanted
    small_engine(model_copy, num_blocks=400).engine.add_request(request_of("fits", [1] * (wanted - 1), 1))
    with pytest.raises(RequestError, match=f"context is {wanted} tokens"):
        small_engine(model_copy, num_blocks=400).engine.add_request(request_of("too long", [1] * wanted, 1))


def test_old_and_new_configs_are_one_model(model_copy: Path) -> None:
    new: dict[str, object] = {"rope_parameters": LLAMA3}
    scaling = {**LLAMA3, "rope_theta": None}
    old: dict[str, object] = {"rope_theta": 500.0, "rope_scaling": scaling, "rope_parameters": None}
    specs: list[ModelSpec] = []
    for changes in (new, old):
        edit_json(model_copy / "config.json", **changes)
        specs.append(read_model_spec(model_copy))
    assert specs[0] == specs[1]


def test_without_sizes_of_their_own_heads_share_the_hidden_size(model_copy: Path) -> None:
    edit_json(model_copy / "config.json", head_dim=None, num_key_value_heads=None, rms_norm_eps=None)
    spec = read_model_spec(model_copy)
    assert (spec.head_dim, spec.num_kv_heads, spec.rms_norm_eps) == (16, 4, 1e-6)
