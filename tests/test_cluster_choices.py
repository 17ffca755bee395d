"""cluster/door/choices.py: several completions of one prompt, read as one stream."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar

import pytest
from ray.serve import context

from cluster.api.answers import Usage
from cluster.api.text_delta import TextDelta
from cluster.door.choices import Choices, interleaved
from cluster.door.completion import Completion
from cluster.door.failures import RequestFailures
from cluster.door.frontend import collected, repeated
from cluster.door.journey import Journey
from cluster.telemetry.request_metrics import RequestTimer
from tests.fake_sink import FakeSink
from tests.scripted_workers import TOKENS, Fate, ScriptedWorkers, a_request
from workers.request import RequestError
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

CALL = ContextVar("CALL", default="")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


def choices_of(tokenizer: Tokenizer, workers: ScriptedWorkers, count: int) -> Choices:
    completions = [Completion(one, tokenizer, (), RequestTimer(FakeSink())) for one in repeated(a_request(), count)]
    return Choices(completions, lambda one: Journey(one.request, workers, RequestFailures()))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_choice_is_whole_and_the_prompt_counts_once(tokenizer: Tokenizer, count: int) -> None:
    async def run() -> tuple[list[TextDelta], Usage]:
        choices = choices_of(tokenizer, ScriptedWorkers(), count)
        pieces = choices.deltas()
        return await collected(await anext(pieces), pieces, count), choices.usage(2)

    whole, used = asyncio.run(run())
    text = tokenizer.decode(list(TOKENS))
    assert [(one.text, one.finish_reason) for one in whole] == [(text, "length")] * count
    assert used[:2] == (3, count * len(TOKENS))


def test_the_choices_are_requests_of_their_own_with_seeds_of_their_own() -> None:
    asked = list(repeated(a_request(), 3))
    assert asked[0] == a_request()
    assert len({one.request_id for one in asked}) == len({one.sampling.seed for one in asked}) == 3
    assert {one.prompt_token_ids for one in asked} == {a_request().prompt_token_ids}
    assert list(repeated(a_request(), 3)) == asked, "they can be drawn again"


def test_the_others_start_when_the_first_has_text(tokenizer: Tokenizer) -> None:
    async def run() -> list[int]:
        workers = ScriptedWorkers()
        asked = []
        async with aclosing(choices_of(tokenizer, workers, 3).deltas()) as pieces:
            async for _ in pieces:
                asked.append(len(workers.prefilled))
        return asked

    asked = asyncio.run(run())
    assert asked[0] == 1
    assert asked[-1] == 3


@pytest.mark.parametrize("leaves_after", [1, 2, 6])
def test_a_client_that_goes_ends_all_of_them(tokenizer: Tokenizer, leaves_after: int) -> None:
    async def run() -> int:
        workers = ScriptedWorkers()
        async with aclosing(choices_of(tokenizer, workers, 4).deltas()) as pieces:
            for _ in range(leaves_after):
                await anext(pieces)
        return workers.num_open

    assert asyncio.run(run()) == 0


def test_an_error_in_one_ends_all_of_them(tokenizer: Tokenizer) -> None:
    async def run() -> int:
        workers = ScriptedWorkers(decodes=[Fate(3, None), Fate(2, RequestError("no"))])
        pieces = choices_of(tokenizer, workers, 2).deltas()
        first = await anext(pieces)
        with pytest.raises(RequestError):
            await collected(first, pieces, 2)
        return workers.num_open

    assert asyncio.run(run()) == 0


def test_each_choice_has_a_context_of_its_own_and_logs_under_the_requests_id() -> None:
    """In one, Serve takes calls that wait at once for the same call, and one of them waits for ever."""
    seen = []

    async def pieces() -> AsyncGenerator[TextDelta]:
        serve = context._get_serve_request_context()
        seen.append((CALL.get(), serve.request_id, serve._internal_request_id))
        CALL.set("a choice's")
        yield TextDelta("x", "stop")

    async def run() -> None:
        CALL.set("the request's")
        context._set_request_context(request_id="the client's", _internal_request_id="Serve's")
        async with aclosing(interleaved([pieces(), pieces()])) as given:
            assert [choice async for choice, _ in given] == [0, 1]

    asyncio.run(run())
    assert seen == [("", "the client's", "")] * 2


def test_a_slow_client_holds_the_streams_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.door.choices.MAX_WAITING", 4)
    given: dict[int, int] = defaultdict(int)

    def stream(number: int) -> AsyncGenerator[TextDelta]:
        async def pieces() -> AsyncGenerator[TextDelta]:
            for _ in range(100):
                given[number] += 1
                yield TextDelta("x", None)

        return pieces()

    async def run(make: Callable[[int], AsyncGenerator[TextDelta]]) -> None:
        async with aclosing(interleaved([make(0), make(1)])) as pieces:
            await anext(pieces)
            await asyncio.sleep(0.01)

    asyncio.run(run(stream))
    assert sum(given.values()) <= 8
