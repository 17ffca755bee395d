"""Requests made up from OpenAI's own description of its API: none fails the server, and its answers are as described.

Half of them keep to the description, as far as it goes; the others break it somewhere.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from tests.bad_requests import CHAT, CHAT_PATH
from tests.fake_pools import SETTINGS, FakePools, events_of
from tests.fake_sink import FakeSink
from tests.openai_document import DOCUMENT, chunk_validator, trimmed
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

pytestmark = pytest.mark.skipif(not DOCUMENT.exists(), reason="OpenAI's description is not beside the checkout")
CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance, status_code_conformance]
OPERATIONS = [
    ("/chat/completions", "POST"),
    ("/completions", "POST"),
    ("/models/{model}", "GET"),
]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


class Asker:
    """Sends cases to a front door over fake pools and holds the answers against the description."""

    def __init__(self, client: TestClient) -> None:
        self.document = schemathesis.openapi.from_dict(trimmed())
        self.statuses: Counter[int] = Counter()
        self._client = client
        self._chunks = chunk_validator()

    def ask(self, case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver/v1")
        body = {name: sent[key] for name, key in (("json", "json"), ("content", "data")) if sent.get(key) is not None}
        response: Any = self._client.request(sent["method"], sent["url"], headers=sent["headers"], **body)
        case.validate_response(response, checks=CHECKS)
        self.statuses[response.status_code] += 1
        if case.path == "/chat/completions" and response.headers["content-type"].startswith("text/event-stream"):
            self.check_events(response.text)

    def check_events(self, body: str) -> None:
        *chunks, done = events_of(body)
        assert done == "[DONE]"
        for chunk in chunks:
            self._chunks.validate(chunk)


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    tokenizer = Tokenizer(TINY_MODEL)
    frontend = Frontend(SETTINGS, tokenizer, FakePools(tokenizer, "naïve 🙂"), FakeSink())
    with TestClient(build_api(frontend, Admission(10)), raise_server_exceptions=False) as client:
        yield Asker(client)


def ask_many(asker: Asker, path: str, method: str, mode: GenerationMode, count: int) -> Counter[int]:
    """Statuses of the answers to so many requests."""
    before = asker.statuses.copy()

    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=asker.document[path][method].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        asker.ask(case)

    ask()
    return asker.statuses - before


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_made_up_request_fails_the_server(asker: Asker, path: str, method: str, mode: GenerationMode) -> None:
    statuses = ask_many(asker, path, method, mode, 30)
    assert sum(statuses.values()) == 30
    assert statuses[200] or mode is not GenerationMode.POSITIVE or "model" in path


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("path", "method", "count"),
    [(*operation, count) for operation, count in zip(OPERATIONS, (1200, 3600, 200), strict=True)],
)
def test_ten_thousand_made_up_requests(asker: Asker, path: str, method: str, mode: GenerationMode, count: int) -> None:
    assert sum(ask_many(asker, path, method, mode, count).values()) == count


def test_streams_are_as_described(asker: Asker) -> None:
    for fields in ({}, {"n": 2, "max_tokens": 1}, {"stream_options": {"include_usage": True}, "logprobs": True}):
        asker.check_events(asker._client.post(CHAT_PATH, json=CHAT | {"stream": True} | fields).text)


def test_an_event_that_is_not_as_described_would_be_seen(asker: Asker) -> None:
    with pytest.raises(jsonschema.ValidationError):
        asker.check_events('data: {"id": "x", "choices": []}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize(
    ("status", "answer"),
    [(500, {"error": {}}), (200, {"object": "list"}), (400, {"detail": "no"}), (418, {}), (200, "list")],
)
def test_an_answer_that_is_not_as_described_would_be_seen(asker: Asker, status: int, answer: Any) -> None:
    case: Any = asker.document["/models"]["GET"].Case()
    response: Any = TestClient(JSONResponse(answer, status)).get("/")
    with pytest.raises(BaseExceptionGroup):
        case.validate_response(response, checks=CHECKS)
