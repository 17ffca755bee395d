"""Prompts that have nothing in common: what serving costs where the cache is of no use."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.loadtest.ask import Ask, Session
from cluster.loadtest.settings import Settings
from cluster.loadtest.words import words


@dataclass(frozen=True)
class Unique:
    """Each request on its own."""

    settings: Settings

    def sessions(self) -> Iterator[Session]:
        """One request each."""
        return (one(unique_ask(self.settings, number)) for number in range(self.settings.requests))

    def starts_s(self) -> None:
        """As asked for."""


def unique_ask(settings: Settings, number: int | str, group: str = "") -> Ask:
    """A prompt that nothing else begins with."""
    return Ask((words(settings.words, settings.seed, "own", number),), settings.max_tokens, group=group)


def one(ask: Ask) -> Session:
    """A conversation of one request."""
    yield ask
