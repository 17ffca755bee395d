"""cluster/api/validation.py: what is wrong with a body, by field and by OpenAI's word for it."""

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.api.errors import ApiError
from cluster.api.protocol import ChatBody, CompletionBody, GenerationBody
from cluster.api.validation import validated

TEXT: dict[str, Any] = {"model": "m", "prompt": "x"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
NAN = float("nan")


def chat(**fields: Any) -> tuple[type[GenerationBody], Any]:
    return ChatBody, CHAT | fields


def text(**fields: Any) -> tuple[type[GenerationBody], Any]:
    return CompletionBody, TEXT | fields


def message(**fields: Any) -> tuple[type[GenerationBody], Any]:
    return chat(messages=[*CHAT["messages"], {"role": "user", "content": "x"} | fields])


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        (text(max_tokens=0), "max_tokens", "integer_below_min_value"),
        (text(max_tokens=2**31), "max_tokens", "integer_above_max_value"),
        (text(max_tokens=1.5), "max_tokens", "invalid_type"),
        (text(max_tokens=True), "max_tokens", "invalid_type"),
        (text(temperature=-1), "temperature", "decimal_below_min_value"),
        (text(temperature=2.01), "temperature", "decimal_above_max_value"),
        (text(temperature=NAN), "temperature", "invalid_value"),
        (text(top_p=0), "top_p", "decimal_below_min_value"),
        (text(seed=2**63), "seed", "integer_above_max_value"),
        (text(prompt=5), "prompt", "invalid_type"),
        (text(prompt=[3, "x"]), "prompt[1]", "invalid_type"),
        (text(prompt=[]), "prompt", "empty_array"),
        (text(stop=["a", 1]), "stop[1]", "invalid_type"),
        (text(stop=["a", "b" * 1025]), "stop[1]", "string_above_max_length"),
        (text(stop=["a"] * 5), "stop", "array_above_max_length"),
        (text(stop=""), "stop", "invalid_value"),
        (text(logit_bias={"messages": 1}), "logit_bias", "invalid_value"),
        (text(logit_bias={"1": 101}), "logit_bias", "decimal_above_max_value"),
        (text(metadata={"a": "b" * 513}), "metadata", "string_above_max_length"),
        (text(metadata={str(count): "" for count in range(17)}), "metadata", "array_above_max_length"),
        (text(suffix="x"), "suffix", "unsupported_parameter"),
        (text(stream_options={}), "stream_options", "invalid_value"),
        (text(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_type"),
        (
            text(stream=True, stream_options={"include_obfuscation": True}),
            "stream_options.include_obfuscation",
            "unsupported_parameter",
        ),
        (text(cache_salt=""), "cache_salt", "invalid_value"),
        (message(role="root"), "messages[1].role", "invalid_value"),
        (message(content=None), "messages[1].content", "invalid_type"),
        (message(content=[{"type": "text", "text": 5}]), "messages[1].content[0].text", "invalid_type"),
        (message(content=[{"type": "image_url"}]), "messages[1].content[0].type", "unsupported_value"),
        (message(content=[{"text": "x"}]), "messages[1].content[0].type", "missing_required_parameter"),
        (chat(messages=[{"content": "x"}]), "messages[0].role", "missing_required_parameter"),
        (chat(messages=["x"]), "messages[0]", "invalid_type"),
        (chat(top_logprobs=1), "top_logprobs", "invalid_value"),
        (chat(max_tokens=1, max_completion_tokens=2), "max_tokens", "invalid_value"),
        (chat(response_format={"type": "xml"}), "response_format", "invalid_value"),
        (chat(response_format={"type": "json_object"}), "response_format", "unsupported_parameter"),
        (chat(store=True), "store", "unsupported_parameter"),
        (chat(continue_final_message=True), "continue_final_message", "unsupported_parameter"),
        (text(use_beam_search=True), "use_beam_search", "unsupported_parameter"),
        ((ChatBody, []), None, None),
        ((ChatBody, {"messages": 1}), "model", "missing_required_parameter"),
    ],
)
def test_a_field_at_fault_is_named(
    asked: tuple[type[GenerationBody], Any], param: str | None, code: str | None
) -> None:
    with pytest.raises(ApiError) as refused:
        validated(*asked)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, code)
    assert param is None or param.partition("[")[0].partition(".")[0] in refused.value.message


@pytest.mark.parametrize(
    "asked",
    [
        chat(store=False, modalities=["text"], response_format={"type": "text"}, tools=[], service_tier="auto"),
        chat(max_tokens=3, max_completion_tokens=3, reasoning_effort="none", function_call="none"),
        text(
            suffix=None, stream=None, metadata={"a": "b"}, safety_identifier="x", stop=[], top_k=-1, length_penalty=1.0
        ),
    ],
)
def test_what_asks_for_nothing_is_accepted(asked: tuple[type[GenerationBody], Any]) -> None:
    assert validated(*asked).ignored == ()


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (text(prompt=[1.5] * 10_000), "prompt[0]"),
        (text(prompt=[[1.5] * 1000] * 100), "prompt[0][0]"),
        (text(logit_bias={f"x{count}": 1 for count in range(10_000)}), "logit_bias"),
        (text(metadata={str(count): 1 for count in range(10_000)}), "metadata"),
        (text(stop_token_ids=["x"] * 10_000), "stop_token_ids"),
        (chat(messages=[{"role": "user", "content": [5] * 10_000}]), "messages[0].content"),
        (chat(messages=[5] * 10_000), "messages"),
        (chat(tools=[5] * 10_000), "tools"),
    ],
)
def test_not_every_fault_of_many_is_looked_for(asked: tuple[type[GenerationBody], Any], param: str) -> None:
    """Each would be a record of its own: 400,000 of them took two seconds."""
    body, values = asked
    with pytest.raises(ValidationError) as refused:
        body.model_validate(values)
    assert refused.value.error_count() <= 2048
    with pytest.raises(ApiError) as told:
        validated(body, values)
    assert str(told.value.param).startswith(param)


def test_a_neutral_value_of_another_type_is_none() -> None:
    with pytest.raises(ApiError, match="store"):
        validated(*chat(store=0))


def test_unknown_fields_are_remembered() -> None:
    assert validated(*text(foo=1, unsupported=2)).ignored == ("foo", "unsupported")
