"""The HTTP API over the real tokenizer and a fake pair of pools: shapes, streams, errors and aborts, without Ray."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from cluster.admission import Admission
from cluster.answers import Json
from cluster.api import build_api
from cluster.failures import NoWorkerError, QuarantinedError, TimeIsOverError
from cluster.frontend import Frontend, FrontendSettings
from cluster.route_question import RouteQuestion
from tests.fake_sink import FakeSink
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, FinishReason, GenerationRequest, RequestError, RequestOutput
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

SETTINGS = FrontendSettings(
    str(TINY_MODEL), "tiny", 64, 4096, 16, "tiny", b"s", token="t", request_timeout_s=60, local_prefill_tokens=0
)
LIMIT = 2
SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"spec_version": "2.3"},
    "method": "POST",
    "path": "/v1/completions",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "import os"}]}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "import os"}


class FakePools:
    """Answers every request with the same text, one token at a time: the first from prefill, the others from decode."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokens = tokenizer.encode(text)[1:]
        self.requests: list[GenerationRequest] = []
        self.num_opened = 0
        self.num_closed = 0
        self.fails_after: int | None = None
        self.fails_with: Exception = RuntimeError("a secret of the house at /etc/passwd")
        self.gate = asyncio.Event()
        self.gate.set()
        self.known: Json = {"worker": "a"}
        self.asked: list[RouteQuestion] = []

    async def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        self.requests.append(request)
        async with aclosing(self._drawn(request, slice(1))) as drawn:
            async for token, finish_reason in drawn:
                yield Prefilled(request.request_id, "", b"", 1, 3, token, finish_reason)

    async def decode(
        self, request: GenerationRequest, prefilled: Prefilled | None
    ) -> AsyncGenerator[Beat | RequestOutput]:
        async with aclosing(self._drawn(request, slice(1, request.sampling.max_tokens))) as drawn:
            async for token, finish_reason in drawn:
                yield RequestOutput(request.request_id, (token,), 3, finish_reason)

    async def starts_at_decode(self, request: GenerationRequest) -> bool:
        return False

    def abort(self, endpoint: str, request_id: str) -> None:
        raise AssertionError("without a sign of life nobody knows where")

    async def ask_all(self, make_question: Callable[[], RouteQuestion]) -> Json:
        self.asked.append(make_question())
        return {"prefill": self.known, "decode": {}}

    async def _drawn(self, request: GenerationRequest, part: slice) -> AsyncGenerator[tuple[int, FinishReason | None]]:
        self.num_opened += 1
        try:
            last = min(request.sampling.max_tokens, len(self._tokens)) - 1
            for index, token in list(enumerate(self._tokens))[part]:
                await self.gate.wait()
                await asyncio.sleep(0)
                if self.fails_after is not None and index >= self.fails_after:
                    raise self.fails_with
                yield token, FinishReason.LENGTH if index == last else None
        finally:
            self.num_closed += 1


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


@pytest.fixture
def pools(tokenizer: Tokenizer) -> FakePools:
    return FakePools(tokenizer, "def naïve(): 🙂 STOP return 1")


@pytest.fixture
def admission() -> Admission:
    return Admission(LIMIT)


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def api(tokenizer: Tokenizer, pools: FakePools, admission: Admission, sink: FakeSink) -> FastAPI:
    return build_api(Frontend(SETTINGS, tokenizer, pools, sink), admission, debug_route=True)


@pytest.fixture
def client(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


def events_of(body: str) -> list[Any]:
    """The data of a stream's events; [DONE] stays text."""
    data = [event.removeprefix("data: ") for event in body.strip().split("\n\n")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


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
    assert (used["choices"], used["usage"]["prompt_tokens_details"]) == ([], {"cached_tokens": 3})


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
        ("chat/completions", CHAT | {"messages": [{"role": "root", "content": "x"}]}, 400, "messages.0.role", "role"),
        ("chat/completions", CHAT | {"temperature": "1"}, 400, "temperature", "number"),
        ("chat/completions", CHAT | {"temperature": 2.5}, 400, "temperature", "less than or equal to 2"),
        ("chat/completions", CHAT | {"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ("chat/completions", CHAT | {"max_tokens": True}, 400, "max_tokens", "integer"),
        ("chat/completions", CHAT | {"max_tokens": 64}, 400, "max_tokens", "context is 64 tokens"),
        ("chat/completions", CHAT | {"n": 129}, 400, "n", "less than or equal to 128"),
        ("chat/completions", CHAT | {"tools": [{}]}, 400, "tools", "not implemented"),
        ("completions", TEXT | {"logprobs": 6}, 400, "logprobs", "less than or equal to 5"),
        ("completions", TEXT | {"logprobs": True}, 400, "logprobs", "integer"),
        ("chat/completions", CHAT | {"top_logprobs": 1}, 400, "top_logprobs", "needs logprobs"),
        ("completions", TEXT | {"min_tokens": 9, "max_tokens": 8}, 400, None, "min_tokens"),
        ("completions", TEXT | {"prompt": ""}, 400, "prompt", "at least 1"),
        ("completions", TEXT | {"prompt": [4096]}, 400, "prompt", "below 4096"),
        ("completions", TEXT | {"prompt": [-1]}, 400, "prompt.0", "greater than or equal to 0"),
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


def test_unknown_paths_and_methods_are_api_errors(client: TestClient) -> None:
    assert client.get("/v1/nothing").json()["error"]["message"].startswith("GET /v1/nothing")
    assert client.get("/v1/completions").status_code == 405


def test_an_unforeseen_failure_tells_nothing_of_the_house(client: TestClient, pools: FakePools) -> None:
    pools.fails_after = 0
    response = client.post("/v1/completions", json=TEXT)
    assert response.status_code == 500
    assert "secret" not in response.text


def test_a_failure_in_a_stream_is_an_event_and_no_done_follows(client: TestClient, pools: FakePools) -> None:
    pools.fails_after = 2
    events = events_of(client.post("/v1/completions", json=TEXT | {"stream": True}).text)
    assert events[-1]["error"]["type"] == "server_error"
    assert "secret" not in str(events)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (NoWorkerError(), 503, "overloaded", "1"),
        (TimeIsOverError(), 504, "deadline_exceeded", None),
        (QuarantinedError(), 500, "request_quarantined", None),
        (RequestError("the prompt is too long"), 400, "invalid_value", None),
    ],
)
@pytest.mark.parametrize("fails_after", [0, 1])
def test_what_befell_a_request_is_told_by_status_and_code(
    client: TestClient,
    pools: FakePools,
    fails_after: int,
    error: Exception,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    pools.fails_after, pools.fails_with = fails_after, error
    response = client.post("/v1/completions", json=TEXT)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers.get("retry-after") == retry_after


def test_a_full_door_refuses_at_once_and_answers_all_else(
    client: TestClient, pools: FakePools, admission: Admission
) -> None:
    while admission.enter():
        pass
    for path, body in (("completions", TEXT), ("chat/completions", CHAT), ("completions", {"no": "request"})):
        response = client.post(f"/v1/{path}", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (429, "overloaded", "rate_limit_error")
        assert int(response.headers["retry-after"]) >= 1
        assert f"try again in {response.headers['retry-after']} s" in error["message"]
    assert pools.requests == []
    assert client.get("/healthz").status_code == client.get("/v1/models").status_code == 200
    assert client.get("/debug/route?request_id=cmpl-1").status_code == 200
    admission.leave()
    assert client.post("/v1/completions", json=TEXT).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", TEXT),
        ("completions", TEXT | {"stream": True}),
        ("chat/completions", CHAT | {"stream": True}),
        ("completions", TEXT | {"prompt": ""}),
        ("completions", TEXT | {"max_tokens": 64}),
    ],
)
@pytest.mark.parametrize("fails_after", [None, 0, 2])
def test_however_a_request_ends_its_slot_is_given_back(
    client: TestClient, pools: FakePools, admission: Admission, path: str, body: Json, fails_after: int | None
) -> None:
    pools.fails_after = fails_after
    for _ in range(LIMIT + 1):
        assert client.post(f"/v1/{path}", json=body).status_code != 429
    assert admission.num_in_flight == 0


def test_openais_client_is_told_by_the_name_it_knows(client: TestClient, admission: Admission) -> None:
    while admission.enter():
        pass
    theirs = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=client, max_retries=0)
    with pytest.raises(openai.RateLimitError) as refused:
        theirs.completions.create(model="tiny", prompt="import os")
    assert refused.value.code == "overloaded"


def asked(api: FastAPI, body: Json) -> "tuple[asyncio.Task[None], list[int]]":
    """A request on its way, and the status of its answer once there is one."""
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        statuses.extend([message["status"]] if "status" in message else [])

    return asyncio.create_task(api(SCOPE, receive, send)), statuses


@pytest.mark.parametrize("stream", [False, True])
def test_requests_in_flight_count_until_their_last_byte(api: FastAPI, pools: FakePools, stream: bool) -> None:
    async def crowd() -> None:
        body = TEXT | {"stream": stream}
        pools.gate = asyncio.Event()
        waiting = [asked(api, body) for _ in range(LIMIT)]
        while len(pools.requests) < LIMIT:
            await asyncio.sleep(0)
        refused, statuses = asked(api, body)
        await refused
        assert (statuses, len(pools.requests)) == ([429], LIMIT)
        pools.gate.set()
        await asyncio.wait([task for task, _ in waiting])
        last, statuses = asked(api, body)
        await last
        assert [statuses, *(told for _, told in waiting)] == [[200]] * (LIMIT + 1)

    asyncio.run(crowd())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_at_any_time_leaves_nothing_behind(
    api: FastAPI, pools: FakePools, admission: Admission, stream: bool
) -> None:
    async def gone_after(turns: int) -> bool:
        task, _ = asked(api, TEXT | {"stream": stream})
        for _ in range(turns):
            await asyncio.sleep(0)
        ended = task.done()
        task.cancel()
        await asyncio.wait([task])
        assert admission.num_in_flight == 0
        assert pools.num_closed == pools.num_opened, "a worker must not go on for nobody"
        return ended

    async def all_times() -> None:
        turns = 0
        while not await gone_after(turns):
            turns += 1
        assert turns > 10

    asyncio.run(all_times())


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


def test_a_dry_run_asks_the_routers_and_sends_nothing(client: TestClient, pools: FakePools) -> None:
    prompt = "import os " * 10
    given = [
        client.post("/debug/route", json=TEXT | {"prompt": prompt, "user": "u"}),
        client.get("/debug/route", params={"dry_run": "", "prompt": prompt}),
        client.post("/debug/route?dry_run", json=CHAT),
    ]
    assert [response.json() for response in given] == [{"prefill": {"worker": "a"}, "decode": {}}] * 3
    first, second, chat = (question.dry_run for question in pools.asked)
    assert first is not None
    assert second is not None
    assert chat is not None
    assert (first.session, second.session) == ("u", None)
    assert first.block_hashes == second.block_hashes != ()
    assert chat.num_tokens > 1
    assert pools.requests == []


def test_a_dry_run_is_checked_like_a_request(client: TestClient) -> None:
    assert client.post("/debug/route", json=TEXT | {"model": "gpt"}).status_code == 404
    assert client.post("/debug/route", json={"model": "tiny"}).status_code == 400
    assert client.post("/debug/route", json=TEXT | {"prompt": [4096]}).status_code == 400


def test_a_routed_request_is_explained_by_its_id(client: TestClient, pools: FakePools) -> None:
    assert client.get("/debug/route?request_id=cmpl-1").json()["prefill"] == {"worker": "a"}
    assert (pools.asked[0].dry_run, pools.asked[0].request_id) == (None, "cmpl-1")
    pools.known = {}
    response = client.get("/debug/route?request_id=cmpl-1")
    assert (response.status_code, response.json()["error"]["param"]) == (404, "request_id")


def test_the_debug_route_is_there_only_where_it_is_asked_for(tokenizer: Tokenizer, pools: FakePools) -> None:
    client = TestClient(build_api(Frontend(SETTINGS, tokenizer, pools, FakeSink()), Admission(LIMIT)))
    assert client.get("/debug/route?request_id=x").status_code == 404
    assert client.post("/debug/route", json=TEXT).status_code == 404
