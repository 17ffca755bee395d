"""A request that kills its workers is failed alone; those that were with it each time go on."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from cluster.door.failures import Loss, QuarantinedError, RequestFailures, WorkerLostError
from cluster.door.journey import Journey
from workers.pools.kv_handoff import KVTicket, Prefilled
from workers.request import Beat, FinishReason, GenerationRequest, RequestOutput, SamplingParams

NUM_TOKENS = 12


class OneWorker:
    """A decode worker that is back at once after every death. Whoever dies there takes all others with it.

    Args:
        poison: how many tokens each deadly request has when it kills, by its first prompt token.
    """

    def __init__(self, poison: dict[int, int]) -> None:
        self._poison = poison
        self._life = asyncio.Event()
        self.num_deaths = 0

    async def starts_at_decode(self, request: GenerationRequest) -> bool:
        return False

    def abort(self, endpoint: str, request_id: str) -> None:
        pass

    async def prefill(self, request: GenerationRequest) -> AsyncGenerator[Beat | Prefilled]:
        yield Beat("p:1")
        done = len(request.output_token_ids)
        ticket = KVTicket("p:1", "life", request.request_id, b"", 1.0)
        finish = FinishReason.LENGTH if done + 1 == NUM_TOKENS else None
        yield Prefilled(request.request_id, "", b"", 1, 0, done, finish, ticket=ticket)

    async def decode(
        self, request: GenerationRequest, prefilled: Prefilled | None
    ) -> AsyncGenerator[Beat | RequestOutput]:
        life, kills_at = self._life, self._poison.get(request.prompt_token_ids[0], NUM_TOKENS)
        yield Beat("d:1")
        for token in range(len(request.output_token_ids) + 1, NUM_TOKENS):
            await asyncio.sleep(0.001)
            if token >= kills_at and not life.is_set():
                self.num_deaths += 1
                life.set()
                self._life = asyncio.Event()
            if life.is_set():
                raise WorkerLostError(Loss.DIED)
            finish = FinishReason.LENGTH if token == NUM_TOKENS - 1 else None
            yield RequestOutput(request.request_id, (token,), 0, finish)


def send(poison: dict[int, int], num_requests: int) -> tuple[list[object], int]:
    """What came of requests sent together (their tokens or their error), and how often the worker died."""

    async def one(worker: OneWorker, shared: RequestFailures, number: int) -> list[int]:
        request = GenerationRequest(str(number), (number, 5), SamplingParams(NUM_TOKENS, seed=1))
        journey = Journey(request, worker, shared)
        return [token async for output in journey.outputs() for token in output.token_ids]

    async def main() -> tuple[list[object], int]:
        worker, shared = OneWorker(poison), RequestFailures()
        sent = [one(worker, shared, number) for number in range(num_requests)]
        results = await asyncio.wait_for(asyncio.gather(*sent, return_exceptions=True), 20)
        assert not shared.isolation.locked()
        with pytest.raises(QuarantinedError):
            await one(worker, shared, next(iter(poison)))
        return list(results), worker.num_deaths

    return asyncio.run(main())


def test_alone_it_is_failed_at_its_second_death() -> None:
    (result,), num_deaths = send({0: 3}, 1)
    assert isinstance(result, QuarantinedError)
    assert num_deaths == 2


@pytest.mark.parametrize("kills_at", [1, 3, 6])
def test_among_others_it_is_told_from_them(kills_at: int) -> None:
    results, num_deaths = send({0: kills_at}, 8)
    assert isinstance(results[0], QuarantinedError)
    assert results[1:] == [list(range(NUM_TOKENS))] * 7
    assert num_deaths <= 4


def test_two_of_them_are_both_told_from_the_others() -> None:
    results, _ = send({0: 4, 3: 4}, 6)
    assert [isinstance(result, QuarantinedError) for result in results] == [True, False, False, True, False, False]
    assert results[1] == list(range(NUM_TOKENS))
