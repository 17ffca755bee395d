"""Clients that ask one thing after the other, for as long as they are let."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.faults.client import Heard, complete
from bench.faults.requests import Case

MAX_PAUSE_S = 0.3


@dataclass(frozen=True)
class Answer:
    """What came, and what should have come."""

    case: Case
    heard: Heard


class Load:
    """A steady number of clients; each waits a moment between its requests.

    Attributes:
        answers: all that have come so far.
    """

    def __init__(self, port: int, cases: Sequence[Case], clients: int, seed: int) -> None:
        self.answers: list[Answer] = []
        self._port = port
        self._cases = cases
        self._rng = random.Random(seed)
        self._stopping = False
        self._clients = [asyncio.create_task(self._ask()) for _ in range(clients)]

    async def stop(self) -> None:
        """Begin nothing more, and wait for what is on its way."""
        self._stopping = True
        await asyncio.gather(*self._clients)

    async def _ask(self) -> None:
        while not self._stopping:
            case = self._rng.choice(self._cases)
            self.answers.append(Answer(case, await complete(self._port, case.body)))
            await asyncio.sleep(self._rng.random() * MAX_PAUSE_S)
