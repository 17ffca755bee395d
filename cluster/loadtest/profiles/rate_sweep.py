"""More and more requests a second, whether or not they are answered: where does a server stop keeping up?"""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.loadtest.arrivals import poisson_s
from cluster.loadtest.ask import Session
from cluster.loadtest.profiles.unique import one, unique_ask
from cluster.loadtest.settings import Settings


@dataclass(frozen=True)
class RateSweep:
    """Stages of equally many requests. Prompts have nothing in common: a cache would favour the later stages."""

    settings: Settings

    def sessions(self) -> Iterator[Session]:
        """One request each, in groups by rate."""
        for number, rate in enumerate(self._rates()):
            yield one(unique_ask(self.settings, number, f"{rate:g}/s"))

    def starts_s(self) -> Iterator[float]:
        """At random, as dense as the stage has it."""
        return poisson_s(self._rates(), self.settings.seed)

    def _rates(self) -> Iterator[float]:
        """Of each request."""
        rates, requests = self.settings.rates, self.settings.requests
        return (rates[number * len(rates) // requests] for number in range(requests))
