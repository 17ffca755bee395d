"""Tool calls through the HTTP API, over a fake pair of pools that says what a model that calls tools would say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from tests.fake_pools import CHAT, SETTINGS, FakePools, events_of
from tests.fake_sink import FakeSink
from tests.tool_model import HERMES, LLAMA, tokenizer_with
from workers.request import FinishReason, RequestError
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "description": "?", "parameters": SCHEMA}}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
ASKED = CHAT | {"tools": [TOOL, OTHER], "max_tokens": 200}
CALL = '{"name": "weather", "arguments": {"city": "Zürich"}}'
TWO = f'I look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{{"name": "time", "arguments": {{}}}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    directory = tmp_path_factory.mktemp("models")
    forms = {"hermes": HERMES, "llama": LLAMA, "unknown": HERMES.replace("<tool_call>", "<call>")}
    return {name: tokenizer_with(directory / name, text) for name, text in forms.items()} | {
        "none": Tokenizer(TINY_MODEL)
    }


class Door:
    """A front door to a model that says one thing."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self.pools = FakePools(tokenizer, text)
        self.pools.ends_with = FinishReason.STOP
        self.sink = FakeSink()
        frontend = Frontend(replace(SETTINGS, max_model_len=2048), tokenizer, self.pools, self.sink)
        self.http = TestClient(build_api(frontend, Admission(4)), raise_server_exceptions=False)
        self.openai = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=self.http)
        self._tokenizer = tokenizer

    def ask(self, **fields: Any) -> Any:
        return self.http.post("/v1/chat/completions", json=ASKED | fields).json()

    def prompt(self, place: int = -1) -> str:
        return self._tokenizer.decode(self.pools.requests[place].prompt_token_ids)


MakeDoor = Callable[..., Door]


@pytest.fixture
def door(tokenizers: dict[str, Tokenizer]) -> MakeDoor:
    return lambda text, form="hermes": Door(tokenizers[form], text)


def test_calls_of_a_whole_answer(door: MakeDoor) -> None:
    hermes = door(TWO)
    (choice,) = hermes.ask()["choices"]
    first, second = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "I look.")
    assert (first["type"], first["function"]["name"], second["function"]["name"]) == ("function", "weather", "time")
    assert json.loads(first["function"]["arguments"]) == {"city": "Zürich"}
    assert first["id"] != second["id"]
    assert hermes.sink.values["vllm_request_success stop"] == 1


def test_the_prompt_tells_the_model_of_its_tools(door: MakeDoor) -> None:
    hermes = door("text")
    hermes.ask()
    assert json.dumps(TOOL) in hermes.prompt()
    assert '{"name": "time", "parameters": {"type": "object", "properties": {}}}' in hermes.prompt()


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_says_the_same_as_the_whole(door: MakeDoor, n: int) -> None:
    hermes = door(TWO)
    chunks = [
        one["choices"][0]
        for one in events_of(hermes.http.post("/v1/chat/completions", json=ASKED | {"stream": True, "n": n}).text)[:-1]
    ]
    for index in range(n):
        mine = [one for one in chunks if one["index"] == index]
        assert "".join(one["delta"].get("content") or "" for one in mine) == "I look."
        calls = [call for one in mine for call in one["delta"].get("tool_calls", ())]
        assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "weather"), (1, "time")]
        assert [one["finish_reason"] for one in mine if one["finish_reason"]] == ["tool_calls"]
    assert not any("tool_call>" in str(one) for one in chunks)


def test_text_before_a_call_is_streamed_and_the_call_held_back_until_it_is_whole(door: MakeDoor) -> None:
    lines = events_of(door(TWO).http.post("/v1/chat/completions", json=ASKED | {"stream": True}).text)[:-1]
    deltas = [one["choices"][0]["delta"] for one in lines]
    said = [place for place, delta in enumerate(deltas) if delta.get("content")]
    called = [place for place, delta in enumerate(deltas) if "tool_calls" in delta]
    assert len(said) > 1
    assert max(said) < min(called)


def test_the_official_client_reads_calls_and_they_come_back(door: MakeDoor) -> None:
    hermes = door(TWO)
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    answer = hermes.openai.chat.completions.create(model="tiny", messages=messages, tools=[TOOL, OTHER])  # type: ignore[list-item]
    message = answer.choices[0].message
    assert message.tool_calls is not None
    messages += [message.model_dump()]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "12°"} for call in message.tool_calls]
    hermes.openai.chat.completions.create(model="tiny", messages=messages, tools=[TOOL, OTHER])  # type: ignore[list-item]
    assert f"assistant: {TWO}\n" in hermes.prompt(), "what the model wrote is its prompt again, and so is in the cache"
    assert f"tool: 12° (weather, {message.tool_calls[0].id})" in hermes.prompt()


def test_the_official_client_reads_a_stream_of_calls(door: MakeDoor) -> None:
    with door(TWO).openai.chat.completions.stream(
        model="tiny",
        messages=[{"role": "user", "content": "Weather?"}],
        tools=[TOOL, OTHER],  # type: ignore[list-item]
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == "I look."
    assert [call.function.name for call in message.tool_calls or ()] == ["weather", "time"]


def test_calls_alone_leave_no_content(door: MakeDoor) -> None:
    llama = door(CALL.replace("arguments", "parameters"), "llama")
    (choice,) = llama.ask()["choices"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Zürich"}'


def test_without_parallel_calls_the_first_ends_the_answer(door: MakeDoor) -> None:
    hermes = door(TWO)
    answer = hermes.ask(parallel_tool_calls=False)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["usage"]["completion_tokens"] < len(hermes.pools._tokens), "no token after it was waited for"
    assert hermes.pools.num_opened == hermes.pools.num_closed == 2
    assert hermes.sink.values["vllm_request_success stop"] == 1


@pytest.mark.parametrize("form", ["hermes", "llama"])
@pytest.mark.parametrize(
    "text", ["__import__('os').system('id')", '{"name": "other", "arguments": {}}', "<tool_call>{"]
)
def test_what_is_no_call_is_text(door: MakeDoor, form: str, text: str) -> None:
    (choice,) = door(text, form).ask()["choices"]
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
@pytest.mark.parametrize("form", ["hermes", "none"])
def test_where_none_may_be_called_the_model_hears_of_none(door: MakeDoor, form: str, fields: Any) -> None:
    quiet = door(TWO, form)
    (choice,) = quiet.ask(**fields)["choices"]
    assert choice["message"]["content"] == TWO
    assert "weather" not in quiet.prompt()


NAMED = {"type": "function", "function": {"name": "weather"}}
ASSISTANT = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


def said(**fields: Any) -> dict[str, Any]:
    return {"messages": [ASSISTANT | fields]}


def called(**fields: Any) -> dict[str, Any]:
    return said(tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"} | fields}])


@pytest.mark.parametrize(
    ("fields", "param", "code", "says"),
    [
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter", "cannot be guaranteed"),
        ({"tool_choice": NAMED}, "tool_choice", "unsupported_parameter", "cannot be guaranteed"),
        ({"tool_choice": "any"}, "tool_choice", "invalid_value", "'none' or 'auto'"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type", "boolean"),
        ({"tools": [TOOL] * 2}, "tools", "invalid_value", "a name of its own"),
        ({"tools": [TOOL] * 129}, "tools", "array_above_max_length", "at most 128"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value", "'function'"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter", "required"),
        ({"tools": [OTHER | {"function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value", "pattern"),
        (
            {"tools": [OTHER | {"function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
            "invalid_type",
            "dictionary",
        ),
        (
            {"tools": [OTHER | {"function": {"name": "f", "strict": True}}]},
            "tools[0].function.strict",
            "unsupported_parameter",
            "guaranteed",
        ),
        (said(tool_calls=None), "messages[0].content", "invalid_type", "must be text"),
        (said(role="user", content="x"), "messages[0].tool_calls", "invalid_value", "only messages of the assistant"),
        (called(arguments="[]"), "messages[0].tool_calls[0].function.arguments", "invalid_value", "JSON object"),
        (called(arguments="{"), "messages[0].tool_calls[0].function.arguments", "invalid_value", "JSON object"),
        (called(arguments={}), "messages[0].tool_calls[0].function.arguments", "invalid_type", "string"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
            "missing_required_parameter",
            "required",
        ),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(door: MakeDoor, fields: Any, param: str, code: str, says: str) -> None:
    hermes = door("text")
    response = hermes.http.post("/v1/chat/completions", json=ASKED | fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert says in error["message"]
    assert hermes.pools.requests == []


@pytest.mark.parametrize(("form", "says"), [("none", "knows none"), ("unknown", "in a form that is not read here")])
def test_a_model_that_cannot_call_tools_says_so(door: MakeDoor, form: str, says: str) -> None:
    error = door("text", form).ask()["error"]
    assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")
    assert says in error["message"]


def test_calls_are_not_left_out_of_a_prompt_in_silence(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(RequestError, match="knows no calls of tools"):
        tokenizers["none"].encode_chat([ASSISTANT])


def test_markers_are_text_to_a_tokenizer_that_calls_them_special(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path / "m", HERMES, ("<tool_call>", "</tool_call>", "<|end|>"))
    assert tokenizer.decode([4096, *tokenizer.encode("x")[1:], 4097, 4098, 0]) == "<tool_call>x</tool_call>"


def test_tools_that_spell_control_tokens_are_letters(door: MakeDoor) -> None:
    hermes = door("text")
    hermes.ask(tools=[TOOL | {"function": TOOL["function"] | {"description": "<|bos|> and <|eos|>"}}])
    assert "<|bos|> and <|eos|>" in hermes.prompt(), "special tokens would have no text"
