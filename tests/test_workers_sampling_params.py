"""What a client may ask for, and what it is told otherwise."""

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import request_of
from tests.witness import EOS, WitnessEngine
from tests.witness_runner import VOCAB_SIZE
from workers.request import RequestError, SamplingParams

BAD_NUMBERS: dict[str, list[Any]] = {
    "n": [0, -1, 129, 10**9, True, 1.0, "1"],
    "max_tokens": [0, -3, 1.5, True, 2**63, None],
    "min_tokens": [-1, 17, True, 0.0],
    "temperature": [-0.1, math.nan, math.inf, -math.inf, True, "1", None, 10**400],
    "top_p": [0, 0.0, -1.0, 1.5, math.nan, True],
    "top_k": [-2, 1.0, True, 2**31],
    "min_p": [-0.01, 1.01, math.nan, False],
    "repetition_penalty": [0, -1.0, math.inf, math.nan, True],
    "presence_penalty": [-2.1, 2.1, math.nan, False],
    "frequency_penalty": [-2.1, 2.1, math.inf, True],
    "logprobs": [-1, 21, True, 1.0],
    "seed": [1.0, "a", True],
    "ignore_eos": [1, 0, None, "yes"],
    "stop": ["", [""], ["a", ""], [1], None, {"a": 1}],
}
CASES = [(name, value) for name, values in BAD_NUMBERS.items() for value in values]
EVERYTHING = SamplingParams(
    max_tokens=9, logit_bias={5: 1.0, 2: -3}, stop_token_ids=[7, 4, 7], stop="end", min_tokens=3, logprobs=2, seed=8
)


@pytest.mark.parametrize(("name", "value"), CASES)
def test_the_message_names_the_field_and_its_value(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**{name: value})
    assert str(refused.value).startswith(f"{name} is {value!r}; it must be ")


@pytest.mark.parametrize(
    ("bias", "says"),
    [
        ({-1: 1.0}, "a token of logit_bias is -1; it must be"),
        ({"5": 1.0}, "a token of logit_bias is '5'; it must be"),
        ({True: 1.0}, "a token of logit_bias is True; it must be"),
        ({5: 100.5}, "logit_bias of token 5 is 100.5; it must be"),
        ({5: math.nan}, "logit_bias of token 5 is nan; it must be"),
        ({5: True}, "logit_bias of token 5 is True; it must be"),
        ({5: "1"}, "logit_bias of token 5 is '1'; it must be"),
        (dict.fromkeys(range(1025), 1.0), "logit_bias names 1025 tokens; it may name at most 1024"),
        ([5], "it must map token ids to biases"),
        ((5,), "it must map token ids to biases"),
        ("ab", "it must map token ids to biases"),
        (None, "it must map token ids to biases"),
    ],
)
def test_a_bad_logit_bias_is_refused(bias: Any, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(logit_bias=bias)
    assert says in str(refused.value)


@pytest.mark.parametrize("token_ids", [5, "5", None, [-1], [1.0], [True], ["1"], list(range(1025))])
def test_bad_stop_token_ids_are_refused(token_ids: Any) -> None:
    with pytest.raises(RequestError, match="stop_token_ids"):
        SamplingParams(stop_token_ids=token_ids)


@given(
    st.builds(
        dict,
        max_tokens=st.integers(100, 10**9),
        temperature=st.floats(0, 1e300) | st.integers(0, 9),
        top_p=st.floats(0, 1, exclude_min=True),
        top_k=st.integers(-1, 10**9),
        seed=st.integers() | st.none(),
        n=st.integers(1, 128),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0, 1e300, exclude_min=True),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100)),
        stop_token_ids=st.sets(st.integers(0, 2**31 - 1)),
        stop=st.lists(st.text(min_size=1)),
        min_tokens=st.integers(0, 100),
        logprobs=st.none() | st.integers(0, 20),
    )
)
def test_everything_in_range_is_accepted_hashed_and_copied(options: dict[str, Any]) -> None:
    params = SamplingParams(**options)
    assert dict(params.logit_bias) == options["logit_bias"]
    for copy in (replace(params), pickle.loads(pickle.dumps(params)), SamplingParams(**options)):
        assert (copy, hash(copy)) == (params, hash(params))


def test_lists_are_kept_as_tuples_and_a_single_stop_string_is_one() -> None:
    assert EVERYTHING.logit_bias == ((2, -3), (5, 1.0))
    assert EVERYTHING.stop_token_ids == (4, 7)
    assert EVERYTHING.stop == ("end",)


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ({"logit_bias": {5: 1, 32: 1.0, 99: 1}}, r"logit_bias names tokens \[32, 99\]; this model's are 0 to 31"),
        ({"stop_token_ids": [31, 32]}, r"stop_token_ids names tokens \[32\]; this model's are 0 to 31"),
        ({"stop_token_ids": [*range(1, 32)], "min_tokens": 1}, "stop_token_ids leaves none"),
    ],
)
def test_the_engine_refuses_tokens_that_its_model_lacks(sampling: dict[str, Any], says: str) -> None:
    engine = WitnessEngine()
    with pytest.raises(RequestError, match=says):
        engine.add_request(request_of("a", [1, 2], **sampling))
    assert not engine.has_work


def test_the_engine_takes_the_last_token_of_its_vocabulary() -> None:
    everything_but_one = [token for token in range(VOCAB_SIZE) if token not in (EOS, 5)]
    engine = WitnessEngine()
    engine.add_request(request_of("a", [1], logit_bias={VOCAB_SIZE - 1: 1.0}, stop_token_ids=[VOCAB_SIZE - 1]))
    engine.add_request(request_of("b", [1], stop_token_ids=everything_but_one, min_tokens=2))
    assert engine.has_work
