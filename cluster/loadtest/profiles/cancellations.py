"""Clients that leave before their answer is whole: what they began must not slow down those who stay."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.loadtest.ask import Session
from cluster.loadtest.profiles.unique import one, unique_ask
from cluster.loadtest.settings import Settings


@dataclass(frozen=True)
class Cancellations:
    """Requests that have nothing in common; a part of the clients leave within the first half of their answer."""

    settings: Settings

    def sessions(self) -> Iterator[Session]:
        """One request each."""
        lots = random.Random(repr((self.settings.seed, "leave")))
        for number in range(self.settings.requests):
            ask = unique_ask(self.settings, number)
            leaves, after = lots.random() < self.settings.leave_share, lots.randint(0, self.settings.max_tokens // 2)
            yield one(replace(ask, leave_after=after) if leaves else ask)

    def starts_s(self) -> None:
        """As asked for."""
