"""The HTTP API over the real tokenizer and a fake pair of pools: shapes, streams, errors and aborts, without Ray."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.api.answers import Json
from tests.fake_pools import CHAT, TEXT, FakePools, events_of

pytest_plugins = ["tests.frontend_fixtures"]


def test_models_are_listed_and_found_by_name(client: TestClient) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert card["id"] == "tiny"
    assert client.get("/v1/models/tiny").json() == card
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert client.get("/healthz").status_code == 200


def test_a_whole_chat_answer(client: TestClient, pools: FakePools) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 30}).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == "def naïve(): 🙂 STOP return 1"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == len(pools.requests[0].prompt_token_ids)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


def test_a_chat_stream_has_a_role_text_usage_and_an_end(client: TestClient) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 30}
    response = client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, used, done = events_of(response.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "def naïve(): 🙂 STOP return 1"
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({c["id"] for c in chunks}) == 1
    assert "�" not in response.text
    told = {"cached_tokens": 3, "cache_write_tokens": 0}  # not a block of it is full
    assert (used["choices"], used["usage"]["prompt_tokens_details"]) == ([], told)


def test_a_stop_string_ends_the_text_and_the_request(client: TestClient, pools: FakePools) -> None:
    answer = client.post("/v1/completions", json=TEXT | {"max_tokens": 30, "stop": "STOP"}).json()
    assert answer["choices"][0]["text"] == "def naïve(): 🙂 "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert pools.num_opened == pools.num_closed == 2
    assert answer["usage"]["completion_tokens"] < len(pools._tokens)


def test_sampling_reaches_the_engine(client: TestClient, pools: FakePools) -> None:
    client.post(
        "/v1/completions", json=TEXT | {"temperature": 0, "top_p": 0.5, "top_k": 7, "seed": -3, "max_tokens": 2}
    )
    sampling = pools.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0, 0.5, 7, -3)
    assert sampling.max_tokens == 2
    client.post("/v1/completions", json={"model": "tiny", "prompt": [5, 6, 7] * 11})
    assert pools.requests[1].prompt_token_ids == (5, 6, 7) * 11
    assert len(pools.requests[1].block_hashes) == 2
    assert pools.requests[1].sampling.max_tokens == 16, "the API's default"


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "says"),
    [
        ("chat/completions", CHAT | {"model": "gpt"}, 404, "model", "serves 'tiny'"),
        ("chat/completions", CHAT | {"messages": []}, 400, "messages", "at least 1"),
        ("chat/completions", CHAT | {"messages": [{"role": "root", "content": "x"}]}, 400, "messages[0].role", "role"),
        ("chat/completions", CHAT | {"temperature": "1"}, 400, "temperature", "number"),
        ("chat/completions", CHAT | {"temperature": 2.5}, 400, "temperature", "less than or equal to 2"),
        ("chat/completions", CHAT | {"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ("chat/completions", CHAT | {"max_tokens": True}, 400, "max_tokens", "integer"),
        ("chat/completions", CHAT | {"max_tokens": 64}, 400, "max_tokens", "context is 64 tokens"),
        ("chat/completions", CHAT | {"n": 129}, 400, "n", "less than or equal to 128"),
        ("chat/completions", CHAT | {"functions": [{}]}, 400, "functions", "not supported"),
        ("completions", TEXT | {"logprobs": 6}, 400, "logprobs", "less than or equal to 5"),
        ("completions", TEXT | {"logprobs": True}, 400, "logprobs", "integer"),
        ("chat/completions", CHAT | {"top_logprobs": 1}, 400, "top_logprobs", "needs logprobs"),
        ("completions", TEXT | {"min_tokens": 9, "max_tokens": 8}, 400, None, "min_tokens"),
        ("completions", TEXT | {"prompt": ""}, 400, "prompt", "at least 1"),
        ("completions", TEXT | {"prompt": [4096]}, 400, "prompt[0]", "below 4096"),
        ("completions", TEXT | {"prompt": [-1]}, 400, "prompt[0]", "greater than or equal to 0"),
        ("completions", TEXT | {"stop": ["a"] * 5}, 400, "stop", "at most 4"),
        ("completions", {"model": "tiny"}, 400, "prompt", "required"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    client: TestClient, pools: FakePools, path: str, body: Any, status: int, param: str | None, says: str
) -> None:
    response = client.post(f"/v1/{path}", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert says in error["message"]
    assert param is None or error["param"] == param
    assert pools.requests == [], "a bad request must not reach a worker"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"model": "tiny", "prompt": "x", "temperature": NaN}'])
def test_a_body_that_is_no_request(client: TestClient, raw: bytes) -> None:
    response = client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_what_is_not_known_is_ignored_and_named(client: TestClient) -> None:
    told = client.post("/v1/completions", json=TEXT | {"foo": 1, "bar": {"n": 9}, "a b\r\n": 1})
    assert (told.status_code, told.headers["x-raydix-ignored-parameters"]) == (200, "foo, bar")
    assert "x-raydix-ignored-parameters" not in client.post("/v1/completions", json=TEXT).headers


def test_unknown_paths_and_methods_are_api_errors(client: TestClient) -> None:
    assert client.get("/v1/nothing").json()["error"]["message"].startswith("GET /v1/nothing")
    assert client.get("/v1/completions").status_code == 405


@pytest.mark.parametrize(
    ("path", "header", "fields", "session"),
    [
        ("completions", None, {}, None),
        ("completions", None, {"user": "u"}, "u"),
        ("chat/completions", None, {"user": "u", "prompt_cache_key": "k"}, "k"),
        ("chat/completions", "h", {"user": "u", "prompt_cache_key": "k"}, "h"),
    ],
)
def test_a_session_reaches_the_routers_by_header_or_body(
    client: TestClient, pools: FakePools, path: str, header: str | None, fields: Json, session: str | None
) -> None:
    body = (TEXT if path == "completions" else CHAT) | fields
    client.post(f"/v1/{path}", json=body, headers={"x-session-id": header} if header else {})
    assert pools.requests[0].session == session


def test_the_id_of_an_answer_is_the_id_of_its_request(client: TestClient, pools: FakePools) -> None:
    for path, body in (("completions", TEXT), ("chat/completions", CHAT)):
        assert client.post(f"/v1/{path}", json=body).json()["id"] == pools.requests[-1].request_id
