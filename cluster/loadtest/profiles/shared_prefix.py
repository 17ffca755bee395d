"""Few long beginnings, each with many ends: system prompts, few-shot examples, documents that are asked about."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.loadtest.ask import Ask, Session
from cluster.loadtest.profiles.unique import one
from cluster.loadtest.settings import Settings
from cluster.loadtest.words import words


@dataclass(frozen=True)
class SharedPrefix:
    """Each request begins with one of a few texts, by lot."""

    settings: Settings

    def sessions(self) -> Iterator[Session]:
        """One request each. All of a beginning could be cached but when it is asked for the first time."""
        settings, seen = self.settings, set[int]()
        lots = random.Random(repr((settings.seed, "prefixes")))
        for number in range(settings.requests):
            prefix = lots.randrange(settings.prefixes)
            begin = words(settings.prefix_words, settings.seed, "prefix", prefix)
            own = words(settings.words, settings.seed, "own", number)
            yield one(Ask((begin + own,), settings.max_tokens, len(begin) if prefix in seen else 0))
            seen.add(prefix)

    def starts_s(self) -> None:
        """As asked for."""
