"""Bugs of other systems' split pools, re-created as scenes (docs/correctness.md has the list)."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from tests.helpers import generate, request_of, small_engine
from tests.pair import PROMPTS
from tests.pool_services import Services, services
from workers.async_worker import BEAT_S, RequestAbortedError
from workers.request import Beat, GenerationRequest, RequestError

pytestmark = pytest.mark.usefixtures("one_thread")
Scene = Callable[[Services], Awaitable[None]]


def play(model_dir: Path, scene: Scene) -> None:
    async def main() -> None:
        async with services(model_dir) as both:
            await asyncio.wait_for(scene(both), 60)
            await both.until_nothing_is_held()

    asyncio.run(main())


def request(name: str = "r", prompt: str = "long", max_tokens: int = 12) -> GenerationRequest:
    return request_of(name, PROMPTS[prompt], max_tokens, temperature=0.8, seed=4)


def expected(model_dir: Path, prompt: str = "long") -> list[int]:
    return generate(small_engine(model_dir).engine, [request("r", prompt)])["r"]


def test_an_abort_while_waiting_for_a_peer_that_never_answers_frees_at_once(untied_dir: Path) -> None:
    """R10."""

    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(request())
        both.may_fetch.clear()
        waiting = asyncio.ensure_future(both.tokens(request(), prefilled))
        await both.until(lambda: both.fetches == 1)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        both.prefill.abort("r")  # as the front door does

    play(untied_dir, scene)


def test_late_double_and_unknown_ends_are_nobodys_end(untied_dir: Path) -> None:
    """R11: aborts before the request comes, of one that is over, twice, of another attempt."""

    async def scene(both: Services) -> None:
        for name in ("r", "r", "r#1", "never"):
            both.prefill.abort(name)
            both.decode.abort(name)
        prefilled = await both.prefilled(request())
        both.decode.abort("r#1")
        assert await both.tokens(request(), prefilled) == expected(untied_dir)
        for name in ("r", "r"):
            both.prefill.abort(name)
            both.decode.abort(name)
        both.decode_driver.check_health()
        assert await both.tokens(request("again"), None) == expected(untied_dir)

    play(untied_dir, scene)


def test_kv_that_arrives_after_its_request_is_gone_touches_nobody(untied_dir: Path) -> None:
    """R12: the blocks that it was for belong to somebody else by then; it has only ever been written beside them."""

    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(request())
        both.may_fetch.clear()
        waiting = asyncio.ensure_future(both.tokens(request(), prefilled))
        await both.until(lambda: both.fetches == 1)
        victims = [asyncio.ensure_future(both.tokens(request(str(n), "shared"), None)) for n in range(6)]
        waiting.cancel()
        both.may_fetch.set()
        with suppress(asyncio.CancelledError):
            await waiting
        assert [await victim for victim in victims] == [expected(untied_dir, "shared")] * 6
        both.prefill.abort("r")

    play(untied_dir, scene)


def test_kv_that_is_fetched_after_its_lease_is_computed_again(untied_dir: Path) -> None:
    """R13, with another request's KV on the shelf under the same name by then."""

    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(request())
        both.now_s += 100
        assert len(both.shelf) == 0
        other = await both.prefilled(request("r", "shared"))
        assert await both.tokens(request(), prefilled) == expected(untied_dir)
        assert await both.tokens(request("r", "shared"), other) == expected(untied_dir, "shared")

    play(untied_dir, scene)


REFUSED = {
    "too long": request_of("r", PROMPTS["long"], 4000),
    "nothing left": GenerationRequest("r", (1, 2), request_of("r", [1], 2).sampling, output_token_ids=(3, 4)),
    "unknown token": request_of("r", [9999], 4),
    "unknown bias": request_of("r", PROMPTS["long"], 4, logit_bias={9999: 1.0}),
    "unknown stop": request_of("r", PROMPTS["long"], 4, stop_token_ids=(9999,)),
    "several": request_of("r", PROMPTS["long"], 4, n=2),
    "empty": request_of("r", [], 4),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_decode_worker_that_refuses_leaves_nothing_on_the_shelf(untied_dir: Path, reason: str) -> None:
    """R14: the journey tells the prefill worker, whatever the reason."""

    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(request())
        with pytest.raises(RequestError):
            await both.tokens(REFUSED[reason], prefilled)
        both.prefill.abort("r")
        assert len(both.shelf) == 0
        assert await both.tokens(request("good"), None) == expected(untied_dir)

    play(untied_dir, scene)


def test_a_prefill_that_fails_is_heard_of_within_a_second(untied_dir: Path) -> None:
    """R22: no decode worker waits for what will never come."""

    async def scene(both: Services) -> None:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        with pytest.raises(RequestError):
            await both.prefilled(REFUSED["unknown token"])
        assert loop.time() - begin_s < 1

    play(untied_dir, scene)


def test_a_stream_that_waits_gives_signs_of_life(untied_dir: Path) -> None:
    """A fetch that takes long must not look like a dead worker."""

    async def scene(both: Services) -> None:
        prefilled = await both.prefilled(request())
        both.may_fetch.clear()
        async with aclosing(both.decode.decode(request(), prefilled)) as items:
            for _ in range(3):
                async with asyncio.timeout(BEAT_S * 4):
                    assert isinstance(await anext(items), Beat)
            both.may_fetch.set()
            rest = [item async for item in items if not isinstance(item, Beat)]
        assert [token for output in rest for token in output.token_ids] == expected(untied_dir)[1:]

    play(untied_dir, scene)


def test_a_request_whose_time_is_over_is_dropped_whoever_still_listens(untied_dir: Path) -> None:
    async def scene(both: Services) -> None:
        long = request_of("r", PROMPTS["long"], 190, ignore_eos=True).resumed((), 0, 0.02)
        with pytest.raises(RequestAbortedError):
            await both.tokens(long, None)
        with pytest.raises(RequestAbortedError):
            await both.tokens(long, await both.prefilled(request()))

    play(untied_dir, scene)


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.long)])
def test_cancelled_at_any_moment_nothing_is_left(untied_dir: Path, count: int) -> None:
    """R24, R25: between 0 and 50 ms after the call, in either pool; counters and blocks come back."""

    async def scene(both: Services) -> None:
        async def one(number: int) -> None:
            own = request(str(number), ("long", "shared", "short")[number % 3])
            prefilled = await both.prefilled(own) if number % 2 else None
            await both.tokens(own, prefilled)

        for number in range(0, count, 4):
            tasks = [asyncio.ensure_future(one(number + k)) for k in range(4)]
            for k, task in enumerate(tasks):
                asyncio.get_running_loop().call_later((number + 7 * k) % 50 / 1000, task.cancel)
            await asyncio.gather(*tasks, return_exceptions=True)
            for k in range(4):
                both.prefill.abort(str(number + k))
        await both.until_nothing_is_held()
        loads = await both.prefill_driver.load(), await both.decode_driver.load()
        assert [(load.queued_tokens, load.num_running) for load in loads] == [(0, 0)] * 2

    async def main() -> None:
        async with services(untied_dir) as both:
            await scene(both)

    asyncio.run(main())
