"""Conversations: each turn carries all turns before it and the answers to them, as chats and agents do."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.loadtest.ask import Ask, Session
from cluster.loadtest.settings import Settings
from cluster.loadtest.words import words


@dataclass(frozen=True)
class MultiTurn:
    """Conversations that have nothing in common with each other."""

    settings: Settings

    def sessions(self) -> Iterator[Session]:
        """Enough of them for all requests; the last one may be shorter."""
        left = self.settings.requests
        for number in range(-(-left // self.settings.turns)):
            yield self._conversation(number, min(self.settings.turns, left))
            left -= self.settings.turns

    def starts_s(self) -> None:
        """As asked for; a turn follows the answer to the one before at once."""

    def _conversation(self, number: int, turns: int) -> Session:
        settings, said = self.settings, list[str]()
        for turn in range(turns):
            known = sum(map(len, said))
            said.append(words(settings.words, settings.seed, "own", number, turn))
            said.append((yield Ask(tuple(said), settings.max_tokens, known, f"turn {turn + 1}")))
