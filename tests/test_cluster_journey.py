"""cluster/door/journey.py: every token once and the same, whatever befalls the workers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.door import journey
from cluster.door.failures import Loss
from tests.scripted_workers import DECODE, PREFILL, TOKENS, Fate, ScriptedWorkers, outputs_of, tokens_of
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, FinishReason, GenerationRequest, RequestError

STALL_S = 1.0  # a busy machine may hold the loop up for some tenths of a second
LOSSES = [Loss.DIED, Loss.SILENT, Loss.LEFT]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journey, "STALL_S", STALL_S)
    monkeypatch.setattr(journey, "RETRY_S", 0.0001)
    monkeypatch.setattr(journey, "MAX_RETRY_S", 0.001)


def test_a_request_goes_through_prefill_and_decode_and_leaves_nothing_to_abort() -> None:
    workers = ScriptedWorkers()
    outputs = outputs_of(workers)
    assert tokens_of(outputs) == TOKENS
    assert [output.finish_reason for output in outputs] == [None] * 4 + [FinishReason.LENGTH]
    assert {output.request_id for output in outputs} == {"r"}
    assert workers.handed[0] is not None
    assert workers.handed[0].request_id == "r"
    assert workers.aborted == []


def test_a_prompt_that_starts_at_decode_is_not_prefilled() -> None:
    workers = ScriptedWorkers()
    workers.local = True
    assert tokens_of(outputs_of(workers)) == TOKENS
    assert (workers.prefilled, workers.handed) == ([], [None])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_items", range(len(TOKENS)))
@pytest.mark.parametrize("local", [False, True])
def test_a_completion_goes_on_where_its_decode_worker_was_lost(local: bool, num_items: int, loss: Loss) -> None:
    workers = ScriptedWorkers(decodes=[Fate(num_items, loss)])
    workers.local = local
    outputs = outputs_of(workers)
    assert tokens_of(outputs) == TOKENS
    assert {output.request_id for output in outputs} == {"r"}, "attempts are nothing that a client sees"
    first, second = workers.decoded if local else workers.prefilled
    num_kept = max(num_items - 1, 0) + (not local)
    assert (second.request_id, second.output_token_ids, second.lost) == ("r#1", TOKENS[:num_kept], ("r",))
    assert (second.sampling, second.prompt_token_ids) == (first.sampling, first.prompt_token_ids)
    assert local is not bool(workers.prefilled)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_items", [0, 1])
def test_a_prefill_that_is_lost_is_made_again(num_items: int, loss: Loss) -> None:
    workers = ScriptedWorkers(prefills=[Fate(num_items, loss)])
    assert tokens_of(outputs_of(workers)) == TOKENS
    assert [request.request_id for request in workers.prefilled] == ["r", "r#1"]
    assert [request.request_id for request in workers.decoded] == ["r#1"]


@given(
    prefills=st.lists(st.tuples(st.integers(0, 1), st.sampled_from([Loss.LEFT, Loss.SILENT, "ends"])), max_size=4),
    decodes=st.lists(st.tuples(st.integers(0, 5), st.sampled_from([Loss.LEFT, Loss.SILENT, "ends"])), max_size=6),
    death=st.none() | st.tuples(st.booleans(), st.integers(0, 5)),
)
def test_whatever_is_lost_every_token_comes_once(
    prefills: list[tuple[int, Loss | str]], decodes: list[tuple[int, Loss | str]], death: tuple[bool, int] | None
) -> None:
    fates = [[Fate(*fate) for fate in prefills], [Fate(*fate) for fate in decodes]]
    if death is not None:
        fates[death[0]].insert(death[1], Fate(min(death[1], 1), Loss.DIED))
    workers = ScriptedWorkers(fates[0], fates[1])
    outputs = outputs_of(workers)
    assert tokens_of(outputs) == TOKENS
    assert [output.finish_reason is not None for output in outputs] == [False] * 4 + [True]
    for requests in (workers.prefilled, workers.decoded):
        ids = [request.request_id for request in requests]
        assert len(set(ids)) == len(ids), "no attempt may be taken for another"
    for request in workers.prefilled[1:]:
        *earlier, last = request.lost
        assert request.request_id == f"r#{len(earlier) + 1}"
        assert last == (f"r#{len(earlier)}" if earlier else "r")


def test_a_worker_that_falls_silent_is_told_and_given_up() -> None:
    workers = ScriptedWorkers(prefills=[Fate(1, None)], decodes=[Fate(3, None)])
    assert tokens_of(outputs_of(workers)) == TOKENS
    assert workers.aborted == [(PREFILL, "r"), (DECODE, "r#1")]
    assert [request.request_id for request in workers.prefilled] == ["r", "r#1", "r#2"]


def test_one_of_whom_nothing_was_heard_cannot_be_told() -> None:
    workers = ScriptedWorkers(prefills=[Fate(0, None)], decodes=[Fate(0, None)])
    assert tokens_of(outputs_of(workers)) == TOKENS
    assert workers.aborted == [(PREFILL, "r#1")], "where the KV waits for nobody"


def test_signs_of_life_are_enough_not_to_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journey, "STALL_S", 1.0)

    class Slow(ScriptedWorkers):
        async def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
            async with aclosing(super().prefill(request)) as items:
                beat = await anext(items)
                for _ in range(6):
                    await asyncio.sleep(0.2)
                    yield beat
                async for item in items:
                    yield item

    workers = Slow()
    assert tokens_of(outputs_of(workers)) == TOKENS
    assert len(workers.prefilled) == 1


@pytest.mark.parametrize("stage", ["prefills", "decodes"])
def test_a_refused_request_is_not_tried_again(stage: str) -> None:
    workers = ScriptedWorkers(**{stage: [Fate(1, RequestError("no"))]})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no"):
        outputs_of(workers)
    assert len(workers.prefilled) == 1
    assert len(workers.decoded) == (stage == "decodes")


def test_what_was_cached_is_what_the_first_attempt_found() -> None:
    workers = ScriptedWorkers(decodes=[Fate(2, Loss.LEFT)] * 2, num_cached=[2, 99, 99])
    assert {output.num_cached_tokens for output in outputs_of(workers)} == {2}


def test_no_more_was_cached_than_the_prompt_has() -> None:
    workers = ScriptedWorkers(prefills=[Fate(1, Loss.LEFT)], num_cached=[0, 99])
    assert {output.num_cached_tokens for output in outputs_of(workers)} == {3}


def test_a_completion_that_ends_with_its_first_token_needs_no_decode_worker() -> None:
    workers = ScriptedWorkers(decodes=[Fate(4, Loss.LEFT)])
    assert tokens_of(outputs_of(workers)) == TOKENS, "the last token is drawn by a prefill"
    assert (len(workers.prefilled), len(workers.decoded), workers.aborted[1:]) == (2, 1, [])
