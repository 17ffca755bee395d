"""The rotary embedding of `config.json`, as Transformers 4 wrote it and as 5 does, and what is refused."""

import math

import pytest

from tests.families import LLAMA3, YARN
from workers.models.config_fields import ConfigFields
from workers.models.rope import LinearRope, Llama3Rope, Rope, YarnRope
from workers.models.rope_config import read_rope

LINEAR = {"rope_type": "linear", "factor": 4}
NAN = math.nan
Json = dict[str, object]


def read(**fields: object) -> Rope:
    return read_rope(ConfigFields({"max_position_embeddings": 2048, **fields}))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, LinearRope(10000.0)),
        ({"rope_theta": 500000, "rope_scaling": None}, LinearRope(5e5)),
        ({"rope_parameters": {"rope_theta": 5e5}}, LinearRope(5e5)),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_theta": 500000}, LinearRope(5e5)),
        ({"rope_scaling": LINEAR}, LinearRope(10000.0, 4.0)),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 7}, LinearRope(7.0, 4.0)),
        ({"rope_scaling": {"type": "linear", **LINEAR}, "rope_parameters": LINEAR}, LinearRope(10000.0, 4.0)),
        ({"rope_parameters": LLAMA3}, Llama3Rope(500.0, 8.0, 1.0, 4.0, 64)),
        (
            {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": None}},
            Llama3Rope(500.0, 8.0, 1.0, 4.0, 2048),
        ),
        ({"rope_scaling": YARN}, YarnRope(1e4, 4.0, 64, 0.1 * math.log(4) + 1, 32.0, 1.0, True)),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}, "original_max_position_embeddings": 512},
            YarnRope(1e4, 2.0, 512, 0.1 * math.log(2) + 1, 32.0, 1.0, True),
        ),
    ],
)
def test_old_and_new_configs(fields: Json, wanted: Rope) -> None:
    assert read(**fields) == wanted


@pytest.mark.parametrize(
    ("rope", "wanted"),
    [
        (LinearRope(1e4), 2048),
        (LinearRope(1e4, 2.5), 5120),
        (Llama3Rope(1e4, 8.0, 1.0, 4.0, 256), 2048),
        (YarnRope(1e4, 4.0, 256, 1.0, 32.0, 1.0, True), 1024),
    ],
)
def test_the_context_is_the_scaled_one(rope: Rope, wanted: int) -> None:
    assert rope.context(2048) == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "dynamic is not served: .*prefix would be wrong",
        ),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope is not served: .*prefix would be wrong"),
        ({"rope_scaling": {"rope_type": "su"}}, "rope type 'su' is not served; default, linear, llama3, yarn are"),
        ({"rope_scaling": {"rope_type": 3}}, "rope_type is 3; it must be a string"),
        ({"rope_scaling": {"rope_type": []}}, r"rope_type is \[\]; it must be a string"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]; it must be an object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters.full_attention is an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not 1"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "rope_theta is 10000.0 in one place and 1000000"),
        ({"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default"}}, "rope_type is 'default' in one place"),
        ({"rope_theta": NAN}, "rope_theta is nan; it must be a number from 2"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'; it must be a number"),
        ({"rope_theta": True}, "rope_theta is True; it must be a number"),
        ({"rope_theta": 0}, "rope_theta is 0; it must be"),
        ({"rope_theta": math.inf}, "rope_theta is inf; it must be"),
        ({"rope_theta": 10**400}, "rope_theta is 10000.*; it must be"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor is 0.5; it must be a number from 1"),
        ({"rope_scaling": {"type": "linear", "factor": NAN}}, "factor is nan"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "low_freq_factor is 4; it must be below"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": "4"}}, "high_freq_factor is '4'"),
        ({"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 8192.0}}, "original_max_.* is 8192.0"),
        ({"rope_scaling": {**YARN, "beta_slow": 32}}, "beta_slow is 32; it must be below"),
        ({"rope_scaling": {**YARN, "beta_fast": -1}}, "beta_fast is -1"),
        ({"rope_scaling": {**YARN, "truncate": "no"}}, "truncate is 'no'; it must be true or false"),
        ({"rope_scaling": {**YARN, "attention_factor": 0}}, "attention_factor is 0"),
        ({"rope_scaling": {**YARN, "mscale": -1}}, "mscale is -1"),
    ],
)
def test_what_would_give_wrong_tokens_is_refused(fields: Json, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**fields)
