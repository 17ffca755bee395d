"""What the front door makes of prompts: several, echoed, too long, tokenised without holding others up. Without Ray."""

import asyncio
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.api.answers import Json
from cluster.api.errors import ApiError
from cluster.api.protocol import ChatBody, CompletionBody
from cluster.door.caller import ANYBODY
from cluster.door.request_builder import RequestBuilder
from tests.fake_pools import CHAT, SETTINGS, TEXT, FakePools, events_of
from workers.request import RequestError
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]

PROMPTS = ["import os", "x = 1\ny", "def f():"]
ANSWER = "def naïve(): 🙂 STOP return 1"


def ask(client: TestClient, **fields: Any) -> Json:
    response = client.post("/v1/completions", json=TEXT | {"max_tokens": 30} | fields)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def texts_streamed(client: TestClient, **fields: Any) -> dict[int, str]:
    response = client.post("/v1/completions", json=TEXT | {"max_tokens": 30, "stream": True} | fields)
    texts: dict[int, str] = defaultdict(str)
    for chunk in events_of(response.text)[:-1]:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    return texts


@pytest.mark.parametrize("n", [1, 2])
def test_choices_are_numbered_prompt_by_prompt(
    client: TestClient, pools: FakePools, tokenizer: Tokenizer, n: int
) -> None:
    answer = ask(client, prompt=PROMPTS, n=n)
    assert [choice["index"] for choice in answer["choices"]] == list(range(3 * n))
    asked = [request.prompt_token_ids for request in pools.requests]
    tokens = [tuple(tokenizer.encode(prompt)) for prompt in PROMPTS]
    assert sorted(asked) == sorted(tokens * n)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, tokens))
    assert len({request.request_id for request in pools.requests}) == 3 * n


def test_lists_of_tokens_are_prompts_too(client: TestClient, pools: FakePools) -> None:
    assert len(ask(client, prompt=[[5, 6], [7]])["choices"]) == 2
    assert {request.prompt_token_ids for request in pools.requests} == {(5, 6), (7,)}


def test_each_choice_begins_with_its_prompt_where_that_is_asked_for(client: TestClient, tokenizer: Tokenizer) -> None:
    wanted = [prompt + ANSWER for prompt in PROMPTS for _ in range(2)]
    assert [choice["text"] for choice in ask(client, prompt=PROMPTS, n=2, echo=True)["choices"]] == wanted
    assert [texts_streamed(client, prompt=PROMPTS, n=2, echo=True)[index] for index in range(6)] == wanted
    tokens = tokenizer.encode("import os")
    assert ask(client, prompt=tokens, echo=True)["choices"][0]["text"] == "import os" + ANSWER


def test_a_failure_in_one_of_several_prompts_ends_all(client: TestClient, pools: FakePools) -> None:
    pools.fails_after, pools.fails_with = 2, RequestError("no")
    assert client.post("/v1/completions", json=TEXT | {"prompt": PROMPTS}).status_code == 400
    assert pools.num_opened == pools.num_closed


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": ["x", "y" * 40_000]}, "prompt[1]", "context_length_exceeded"),
        ({"prompt": "x = 1\n" * 64}, "prompt", "context_length_exceeded"),
        ({"prompt": [7] * 64, "echo": True}, "prompt", "context_length_exceeded"),
        ({"prompt": "x", "max_tokens": 63}, "max_tokens", "context_length_exceeded"),
        ({"prompt": [[1], [4096]], "echo": True}, "prompt[1][0]", "invalid_value"),
        ({"prompt": ["x"] * 65, "n": 2}, "prompt", "invalid_value"),
        ({"prompt": ["x"] * 129}, "prompt", "array_above_max_length"),
        ({"prompt": ["x", ""]}, "prompt[1]", "invalid_value"),
        ({"prompt": [[1], []]}, "prompt[1]", "empty_array"),
        ({"prompt": [[1], [-1]]}, "prompt[1][0]", "integer_below_min_value"),
        ({"logit_bias": {"4096": 1}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [4096]}, "stop_token_ids[0]", "invalid_value"),
        ({"n": 2, "best_of": 1}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"echo": True, "logprobs": 1}, "echo", "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_refused_by_field(
    client: TestClient, pools: FakePools, fields: Json, param: str, code: str
) -> None:
    response = client.post("/v1/completions", json=TEXT | fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert pools.requests == []


def test_the_limit_that_was_given_is_the_one_at_fault(client: TestClient) -> None:
    for limit in ("max_tokens", "max_completion_tokens"):
        response = client.post("/v1/chat/completions", json=CHAT | {limit: 64})
        assert response.json()["error"]["param"] == limit


def test_a_long_text_is_refused_before_it_is_tokenised(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "encode", None)
    monkeypatch.setattr(Tokenizer, "encode_chat", None)
    longest = SETTINGS.max_model_len * tokenizer.longest_token
    too_long = "x" * (longest + 1)
    said = [{"role": "user", "content": too_long}]
    chat = ChatBody.model_validate({"model": "tiny", "messages": said})
    for body in (CompletionBody(model="tiny", prompt=too_long), chat):
        with pytest.raises(ApiError, match="characters has more") as refused:
            asyncio.run(RequestBuilder(SETTINGS, tokenizer).build(body, "r", ANYBODY))
        assert refused.value.code == "context_length_exceeded"


def test_no_token_is_longer_than_the_longest(tokenizer: Tokenizer) -> None:
    lengths = [len(tokenizer.decode([token])) for token in range(tokenizer.vocab_size)]
    assert max(lengths) <= tokenizer.longest_token


LONG = "import sys; x = 1\n" * 40_000


@pytest.mark.parametrize(
    "body",
    [
        CompletionBody(model="tiny", prompt=LONG),
        CompletionBody(model="tiny", prompt=[LONG[:6000]] * 120),
        ChatBody.model_validate({"model": "tiny", "messages": [{"role": "user", "content": LONG}]}),
    ],
)
def test_a_long_text_is_tokenised_while_others_go_on(tokenizer: Tokenizer, body: ChatBody | CompletionBody) -> None:
    """It takes a second or so, and the event loop is never away for a fifth of that."""
    builder = RequestBuilder(replace(SETTINGS, max_model_len=10**7), tokenizer)

    async def run() -> tuple[float, float]:
        building = asyncio.create_task(builder._tokenized(body))
        begun_s = last_s = time.monotonic()
        longest_s = 0.0
        while not building.done():
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.monotonic() - last_s)
            last_s = time.monotonic()
        return last_s - begun_s, longest_s

    took_s, away_s = asyncio.run(run())
    assert away_s < 0.2 * took_s


def test_text_becomes_tokens_and_tokens_text(client: TestClient, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("x = 1")
    told = client.post("/tokenize", json={"model": "tiny", "prompt": "x = 1"}).json()
    assert told == {"count": len(tokens), "max_model_len": 64, "tokens": tokens, "token_strs": None}
    bare = client.post(
        "/tokenize", json={"prompt": "x = 1", "add_special_tokens": False, "return_token_strs": True}
    ).json()
    assert bare["tokens"] == tokens[1:]
    assert len(bare["token_strs"]) == len(tokens) - 1
    assert client.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "x = 1"}
    chat = client.post("/tokenize", json={"messages": CHAT["messages"]}).json()
    assert chat["tokens"] == tokenizer.encode_chat(CHAT["messages"])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "x", "messages": CHAT["messages"]}, "prompt"),
        ("tokenize", {"prompt": "x", "model": "gpt"}, "model"),
        ("tokenize", {"messages": []}, "messages"),
        ("detokenize", {"tokens": [4096]}, "tokens[0]"),
        ("detokenize", {"tokens": [True]}, "tokens[0]"),
        ("detokenize", {"tokens": [1], "model": "gpt"}, "model"),
    ],
)
def test_what_cannot_be_tokenised_is_refused(client: TestClient, path: str, body: Json, param: str) -> None:
    response = client.post(f"/{path}", json=body)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


def test_probes(client: TestClient, pools: FakePools) -> None:
    assert client.get("/readyz").status_code == 200
    assert client.get("/version").json()["version"]
    assert client.get("/metrics").text.startswith("# Ray")

    pools.is_empty = True
    response = client.get("/readyz")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert client.get("/healthz").status_code == 200, "alive, though it cannot answer"
