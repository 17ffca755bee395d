"""What a pair of workers says it has done: every token and every block once."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.helpers import request_of
from tests.pair import PROMPTS
from tests.pool_services import Services, services
from workers.pools.handoff_counts import HandoffCounts
from workers.request import Beat, RequestOutput

pytestmark = pytest.mark.usefixtures("one_thread")
REQUEST = request_of("r", PROMPTS["long"], 12, ignore_eos=True)


def play(model_dir: Path, scene: Callable[[Services], Awaitable[None]]) -> None:
    async def main() -> None:
        async with services(model_dir) as both:
            await asyncio.wait_for(scene(both), 60)

    asyncio.run(main())


def test_what_was_fetched_is_counted_once(untied_dir: Path) -> None:
    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(REQUEST)
        num_bytes = both.shelf.num_bytes
        await both.tokens(REQUEST, prefilled)
        counts = both.decode.take_handoffs()
        assert counts.num_bytes == num_bytes > 0
        assert [0 < seconds < 60 for seconds in counts.seconds] == [True]
        assert both.decode.take_handoffs() == HandoffCounts()

    play(untied_dir, scene)


def test_a_hand_off_that_does_not_come_has_no_duration(untied_dir: Path) -> None:
    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(REQUEST)
        both.shelf.release(REQUEST.request_id)
        await both.tokens(REQUEST, prefilled)
        assert both.decode.take_handoffs() == HandoffCounts()

    play(untied_dir, scene)


def test_over_both_workers_every_token_is_counted_once(untied_dir: Path) -> None:
    async def scene(both: Services) -> None:
        await both.tokens(REQUEST, await both.prefilled(REQUEST))
        prefill, decode = (engine.take_counts() for engine in both.engines)
        assert (prefill.prompt_tokens, decode.prompt_tokens) == (len(PROMPTS["long"]), 0)
        assert (prefill.generation_tokens, decode.generation_tokens) == (1, 11)
        assert (len(prefill.prefill_s), len(prefill.decode_s)) == (1, 0)
        assert (len(decode.prefill_s), len(decode.decode_s)) == (0, 1)
        assert not any(prefill.recomputed_tokens.values())
        assert not any(decode.recomputed_tokens.values())

    play(untied_dir, scene)


def test_both_workers_say_who_they_are_and_where_their_time_went(untied_dir: Path) -> None:
    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(REQUEST)
        assert prefilled.times is not None
        assert prefilled.first_output.times == prefilled.times
        assert (prefilled.times.queue_s >= 0, prefilled.times.prefill_s > 0) == (True, True)
        assert prefilled.times.transfer_s is None
        items = [item async for item in both.decode.decode(REQUEST, prefilled)]
        assert {item.worker for item in items if isinstance(item, Beat)} == {"a"}
        first, *others = [item.times for item in items if isinstance(item, RequestOutput)]
        assert first is not None
        assert first.transfer_s is not None
        assert (first.transfer_s > 0, first.prefill_s) == (True, 0.0)
        assert set(others) == {None}

    play(untied_dir, scene)


def test_a_worker_that_computes_the_prompt_itself_fetches_nothing(untied_dir: Path) -> None:
    async def scene(both: Services) -> None:
        items = [item async for item in both.decode.decode(REQUEST, None)]
        first = next(item.times for item in items if isinstance(item, RequestOutput))
        assert first is not None
        assert (first.transfer_s, first.prefill_s > 0) == (None, True)

    play(untied_dir, scene)
