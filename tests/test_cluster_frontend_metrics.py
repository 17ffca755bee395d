"""What the front door measures of a request, however it ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from cluster.door.completion import Completion
from cluster.door.failures import RequestFailures
from cluster.door.journey import Journey
from cluster.telemetry import metric_names as names
from cluster.telemetry.request_metrics import RequestTimer
from tests.fake_sink import FakeSink
from tests.scripted_workers import TOKENS, Fate, ScriptedWorkers, a_request
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


def answered(
    tokenizer: Tokenizer, workers: ScriptedWorkers, *, stop: tuple[str, ...] = (), leaves_after: int | None = None
) -> FakeSink:
    """One request through the front door's part of its way; its client leaves after so many pieces of text."""
    sink = FakeSink()
    completion = Completion(a_request(), tokenizer, stop, RequestTimer(sink))

    async def read(deltas: AsyncGenerator[object]) -> None:
        async with aclosing(deltas):
            count = 0
            async for _ in deltas:
                count += 1
                if count == leaves_after:
                    return

    asyncio.run(read(completion.deltas(Journey(a_request(), workers, RequestFailures()))))
    return sink


def endings(sink: FakeSink) -> dict[str, float]:
    return {name.removeprefix(f"{names.REQUEST_SUCCESS.name} "): value for name, value in sink.values.items()}


def test_a_request_that_ends_by_itself(tokenizer: Tokenizer) -> None:
    sink = answered(tokenizer, ScriptedWorkers())
    assert endings(sink) == {"length": 1}
    assert len(sink.observed[names.TIME_TO_FIRST_TOKEN.name]) == 1
    assert len(sink.observed[names.INTER_TOKEN_LATENCY.name]) == len(TOKENS) - 1
    assert sink.observed[names.REQUEST_PROMPT_TOKENS.name] == [3]
    assert sink.observed[names.REQUEST_GENERATION_TOKENS.name] == [len(TOKENS)]
    assert len(sink.observed[names.E2E_LATENCY.name]) == 1


def test_a_stop_string_is_a_stop_though_no_worker_knows(tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(list(TOKENS))
    assert endings(answered(tokenizer, ScriptedWorkers(), stop=(text[2],))) == {"stop": 1}


def test_a_client_that_leaves(tokenizer: Tokenizer) -> None:
    sink = answered(tokenizer, ScriptedWorkers(), leaves_after=2)
    assert endings(sink) == {"abort": 1}
    assert names.E2E_LATENCY.name not in sink.observed


def test_an_error(tokenizer: Tokenizer) -> None:
    workers, sink = ScriptedWorkers(decodes=[Fate(1, ValueError("no"))]), FakeSink()
    completion = Completion(a_request(), tokenizer, (), RequestTimer(sink))

    async def read() -> None:
        async for _ in completion.deltas(Journey(a_request(), workers, RequestFailures())):
            pass

    with pytest.raises(ValueError, match="no"):
        asyncio.run(read())
    assert endings(sink) == {"error": 1}
