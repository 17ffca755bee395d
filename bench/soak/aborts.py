"""Many requests, some of whose clients leave, and what the replicas hold when all have gone."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence

from bench.faults.client import complete
from bench.faults.inject import say
from bench.faults.load import Answer
from bench.faults.remote import Json, Remote
from bench.faults.requests import Case

ABORTED = 0.2
QUIET_S = 30.0
SIZES = ("fds", "tasks", "rss_bytes")
HELD = ("running", "unfinished", "leaked_blocks", "shelved")


class Crowd:
    """Clients at once, each with one request after the other, until so many have been asked."""

    def __init__(self, port: int, cases: Sequence[Case], count: int, aborted: float, seed: int) -> None:
        self.answers: list[Answer] = []
        self.num_aborted = 0
        self._port = port
        self._cases = cases
        self._aborted = aborted
        self._rng = random.Random(seed)
        self._numbers: Iterator[int] = iter(range(count))

    async def run(self, clients: int) -> float:
        """Requests per second."""
        begin_s = time.monotonic()
        await asyncio.gather(*(self._client() for _ in range(clients)))
        return (len(self.answers) + self.num_aborted) / (time.monotonic() - begin_s)

    async def _client(self) -> None:
        for number in self._numbers:
            case = self._rng.choice(self._cases)
            if number % 1000 == 999:
                say(f"{number + 1} requests")
            if self._rng.random() < self._aborted:
                self.num_aborted += 1
                await complete(self._port, case.body, leave_after=self._rng.randrange(case.body["max_tokens"]))
            else:
                self.answers.append(Answer(case, await complete(self._port, case.body)))


async def quiet(driver: Remote) -> list[Json]:
    """Replicas once they hold nothing any more, or after a while; their loops get a moment to end their tasks."""
    end_s = time.monotonic() + QUIET_S
    while any(held(await looked(driver)).values()) and time.monotonic() < end_s:  # noqa: ASYNC110  # of others' doing
        await asyncio.sleep(1.0)
    await asyncio.sleep(2.0)
    return await looked(driver)


async def looked(driver: Remote) -> list[Json]:
    """All replicas."""
    replicas: list[Json] = (await driver.do("look"))["replicas"]
    return replicas


def held(replicas: Sequence[Json]) -> dict[str, int]:
    """What all of them hold together."""
    return {name: sum(one.get(name, 0) for one in replicas) for name in HELD}


def growth(before: Sequence[Json], after: Sequence[Json]) -> dict[str, Json]:
    """By pool: open files, tasks and memory before and after."""
    pools = sorted({one["pool"] for one in after})
    return {
        pool: {
            name: [sum(one[name] for one in seen if one["pool"] == pool) for seen in (before, after)] for name in SIZES
        }
        for pool in pools
    }
