"""OpenAI's own client, over real sockets, to a front door over fake pools: what it takes apart, and what it raises."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI

from cluster.door.admission import Admission
from cluster.door.failures import NoWorkerError
from tests.fake_pools import CHAT, LIMIT, TEXT, FakePools
from tests.served_api import served_api

pytest_plugins = ["tests.frontend_fixtures"]

ANSWER = "def naïve(): 🙂 STOP return 1"
WITH_USAGE: Any = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def url(api: FastAPI) -> Iterator[str]:
    with served_api(api) as url:
        yield f"{url}/v1"


@pytest.fixture
def theirs(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def been_busy(admission: Admission) -> None:
    """Let a door have answered many lately, so that it tells whoever it refuses to come again in a second."""
    for _ in range(500):
        admission.enter()
        admission.leave()


def until(holds: Any) -> None:
    """Within ten seconds."""
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_models(theirs: openai.OpenAI) -> None:
    assert [model.id for model in theirs.models.list()] == ["tiny"]
    assert theirs.models.retrieve("tiny").owned_by == "raydix"


def test_a_chat_whole(theirs: openai.OpenAI) -> None:
    answer = theirs.chat.completions.create(**CHAT, n=2, max_completion_tokens=30)
    assert [(choice.index, choice.message.role) for choice in answer.choices] == [(0, "assistant"), (1, "assistant")]
    assert [choice.message.content for choice in answer.choices] == [ANSWER, ANSWER]
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_a_chat_streamed_with_helpers(theirs: openai.OpenAI) -> None:
    """The client's own accumulator puts the chunks together again."""
    with theirs.chat.completions.stream(**CHAT, stop="1", stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == ANSWER.removesuffix("1")
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None


def test_texts_streamed(theirs: openai.OpenAI) -> None:
    texts = ["", ""]
    usages = []
    for chunk in theirs.completions.create(**TEXT, max_tokens=30, n=2, **WITH_USAGE):
        usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [ANSWER, ANSWER]
    assert [usage is None for usage in usages] == [True] * (len(usages) - 1) + [False]


def test_a_stop_string(theirs: openai.OpenAI) -> None:
    choice = theirs.completions.create(**TEXT, max_tokens=30, stop=["STOP", "return"]).choices[0]
    assert (choice.text, choice.finish_reason) == ("def naïve(): 🙂 ", "stop")


def test_many_at_once(url: str, admission: Admission) -> None:
    """More than the door takes: whoever is refused comes again when it is told to."""
    been_busy(admission)

    async def run() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=8) as client:
            asked = (client.chat.completions.create(**CHAT, max_tokens=30) for _ in range(4 * LIMIT))
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == [ANSWER] * 4 * LIMIT
    assert admission.num_in_flight == 0


def test_a_stream_read_by_an_event_loop(url: str) -> None:
    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            stream = await client.chat.completions.create(**CHAT, max_tokens=30, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(run()) == ANSWER


def test_a_client_that_was_refused_waits_as_long_as_it_is_told(theirs: openai.OpenAI, admission: Admission) -> None:
    been_busy(admission)
    while admission.enter():
        pass
    leaving = threading.Timer(0.5, admission.leave)
    leaving.start()
    begun_s = time.monotonic()
    answer = theirs.with_options(max_retries=5).completions.create(**TEXT, max_tokens=30)
    assert answer.choices[0].text == ANSWER
    assert time.monotonic() - begun_s > 0.5
    assert admission.num_refused >= 1
    leaving.join()


def test_a_client_without_patience_leaves_and_its_request_ends(theirs: openai.OpenAI, pools: FakePools) -> None:
    pools.gate.clear()
    with pytest.raises(openai.APITimeoutError):
        theirs.completions.create(**TEXT, timeout=0.3)
    pools.gate.set()
    until(lambda: pools.num_opened == pools.num_closed)


@pytest.mark.parametrize(
    ("fields", "raised", "param", "code"),
    [
        ({"temperature": 3}, openai.BadRequestError, "temperature", "decimal_above_max_value"),
        ({"model": "gpt"}, openai.NotFoundError, "model", "model_not_found"),
        ({"extra_headers": {"content-type": "text/plain"}}, openai.APIStatusError, None, "unsupported_media_type"),
        ({"extra_body": {"prompt_embeds": "x"}}, openai.BadRequestError, "prompt_embeds", "unsupported_parameter"),
    ],
)
def test_what_is_refused_is_raised(
    theirs: openai.OpenAI, fields: Any, raised: type[openai.APIStatusError], param: str | None, code: str
) -> None:
    with pytest.raises(raised) as error:
        theirs.chat.completions.create(**CHAT | fields)
    body: Any = error.value.body
    assert (body["param"], body["code"], error.value.code) == (param, code, code)


def test_what_the_server_fails_at_is_raised(theirs: openai.OpenAI, pools: FakePools) -> None:
    pools.fails_after, pools.fails_with = 0, NoWorkerError()
    with pytest.raises(openai.InternalServerError) as error:
        theirs.completions.create(**TEXT)
    assert (error.value.status_code, error.value.code) == (503, "overloaded")


def test_a_failure_in_a_stream_is_raised_from_it(theirs: openai.OpenAI, pools: FakePools) -> None:
    pools.fails_after = 2
    with pytest.raises(openai.APIError, match="failed on this request"):
        list(theirs.completions.create(**TEXT, max_tokens=30, stream=True))


def test_ignored_fields_can_be_seen(theirs: openai.OpenAI) -> None:
    raw = theirs.completions.with_raw_response.create(**TEXT, extra_body={"foo": 1})
    assert raw.headers["x-raydix-ignored-parameters"] == "foo"
    assert raw.parse().choices[0].finish_reason
