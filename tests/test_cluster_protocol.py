"""What a body asks of the engine, field by field."""

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.api.protocol import ChatBody, CompletionBody
from workers.request import RequestError, SamplingParams

TEXT: dict[str, Any] = {"model": "m", "prompt": "x"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
GIVEN: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.25,
    "top_k": 7,
    "seed": 3,
    "presence_penalty": -2,
    "frequency_penalty": 1.5,
    "repetition_penalty": 1.25,
    "min_p": 0.125,
    "min_tokens": 2,
    "stop_token_ids": [9, 4],
    "ignore_eos": True,
}


@pytest.mark.parametrize("body", [CompletionBody(**TEXT, **GIVEN), ChatBody(**CHAT, **GIVEN)])
def test_every_parameter_reaches_the_engine(body: CompletionBody | ChatBody) -> None:
    assert body.sampling(5) == SamplingParams(max_tokens=5, **GIVEN)


def test_biases_are_named_by_token() -> None:
    body = CompletionBody(**TEXT, logit_bias={"12": -100, "3": 1.5}, seed=0)
    assert body.sampling(1).logit_bias == ((3, 1.5), (12, -100))


@pytest.mark.parametrize("body", [CompletionBody(**TEXT, seed=0), ChatBody(**CHAT, seed=0)])
def test_what_is_left_out_or_null_is_the_apis_default(body: CompletionBody | ChatBody) -> None:
    assert body.sampling(5) == SamplingParams(max_tokens=5, seed=0)
    nothing: dict[str, Any] = dict.fromkeys([name for name in GIVEN if name not in ("seed", "ignore_eos")])
    assert CompletionBody(**TEXT, **nothing, logit_bias=None, seed=0).sampling(5) == SamplingParams(
        max_tokens=5, seed=0
    )


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    asked = [CompletionBody(**TEXT), CompletionBody(**TEXT, logprobs=0), CompletionBody(**TEXT, logprobs=5)]
    assert [body.sampling(1).logprobs for body in asked] == [None, 0, 5]
    chats = [ChatBody(**CHAT), ChatBody(**CHAT, logprobs=True), ChatBody(**CHAT, logprobs=True, top_logprobs=20)]
    assert [body.sampling(1).logprobs for body in chats] == [None, 0, 20]


@pytest.mark.parametrize(
    "wrong",
    [
        {"presence_penalty": 2.1},
        {"frequency_penalty": float("nan")},
        {"repetition_penalty": 0},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {"1": "1"}},
        {"logit_bias": dict.fromkeys(map(str, range(1025)), 0)},
        {"min_p": -0.1},
        {"min_tokens": True},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": "1"},
    ],
)
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        CompletionBody(**TEXT, **wrong)


def test_values_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        CompletionBody(**TEXT, min_tokens=9).sampling(5)
