"""When a worker's engine fails, everybody who waits for it is told, and so is everybody who comes later."""

import asyncio

import pytest

from tests.driven import Driven, requests, run
from tests.helpers import request_of
from workers.async_worker import WorkerDiedError


async def break_while_streaming(driven: Driven, count: int) -> list[asyncio.Task[list[int]]]:
    """Tasks that wait for tokens of a worker that is about to fail in the middle of a step."""
    driven.worker.may_step.clear()
    tasks: list[asyncio.Task[list[int]]] = []
    for request in requests(count):
        tasks.append(asyncio.create_task(driven.tokens(request)))
        await asyncio.sleep(0.02)
    driven.worker.broken = True
    return tasks


def test_every_stream_fails() -> None:
    async def scenario(driven: Driven) -> None:
        tokens = await driven.tokens(requests(1)[0])
        assert len(tokens) == 12
        tasks = await break_while_streaming(driven, 1)
        driven.worker.may_step.set()
        with pytest.raises(WorkerDiedError) as failure:
            await asyncio.wait_for(tasks[0], 2)
        assert "fell off the bus" in str(failure.value.__cause__)

    run(scenario)


def test_requests_that_wait_at_the_door_when_the_step_fails_are_told() -> None:
    """All but the first are still in the queue of calls: the step that fails had begun before they came."""

    async def scenario(driven: Driven) -> None:
        tasks = await break_while_streaming(driven, 4)
        driven.worker.may_step.set()
        _, waiting = await asyncio.wait(tasks, timeout=2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not waiting, f"{len(waiting)} requests wait for ever"
        assert all(isinstance(task.exception(), WorkerDiedError) for task in tasks)

    run(scenario)


def test_later_requests_and_health_checks_fail_at_once() -> None:
    async def scenario(driven: Driven) -> None:
        driven.driver.check_health()
        tasks = await break_while_streaming(driven, 1)
        driven.worker.may_step.set()
        await asyncio.wait(tasks, timeout=2)
        assert tasks[0].exception() is not None
        with pytest.raises(WorkerDiedError):
            driven.driver.check_health()
        with pytest.raises(WorkerDiedError):
            await asyncio.wait_for(driven.tokens(request_of("late", [1])), 1)
        with pytest.raises(WorkerDiedError):
            await asyncio.wait_for(driven.driver.call(lambda: 1), 1)

    run(scenario)


def test_stop_ends_the_thread_idle_or_dead() -> None:
    async def scenario(driven: Driven) -> None:
        driven.driver.stop()
        assert not driven.driver._thread.is_alive()

    run(scenario)
