"""A recorded load: when requests came, how long they were, and what they had in common; the words are made up."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.loadtest.ask import Ask, Session
from cluster.loadtest.profiles.unique import one
from cluster.loadtest.settings import Settings, SettingsError
from cluster.loadtest.words import words

TOKENS_PER_ID = 512  # in Mooncake's traces, the last one of a request may have fewer
Row = dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """Each line of the file is a request, sent at its time; the same hash id is the same text.

    Answers are as long as recorded, up to `max_tokens`, and shortened as prompts are.
    """

    settings: Settings

    def sessions(self) -> Iterator[Session]:
        """One request each."""
        seen = set[int]()
        for row in self._rows():
            ids = row["hash_ids"]
            blocks = [self._block(one_id, share) for one_id, share in zip(ids, shares(row), strict=True)]
            known = itertools.takewhile(lambda pair: pair[0] in seen, zip(ids, blocks, strict=True))
            shared_chars = sum(len(block) for _, block in known)
            yield one(Ask(("".join(blocks),), self._answer_tokens(row), shared_chars))
            seen.update(ids)

    def starts_s(self) -> Iterator[float]:
        """The times of the file, counted from its first line on."""
        rows = self._rows()
        return ((row["timestamp"] - rows[0]["timestamp"]) / 1000 / self.settings.speed for row in rows)

    def _rows(self) -> list[Row]:
        with Path(self.settings.trace or "").open(encoding="utf-8") as lines:
            return [checked(line) for line in itertools.islice(lines, self.settings.requests)]

    def _block(self, one_id: int, share: float) -> str:
        """The text of a hash id, or the beginning of it."""
        return words(max(1, round(self.settings.block_words * share)), self.settings.seed, "id", one_id)

    def _answer_tokens(self, row: Row) -> int:
        return max(1, min(self.settings.max_tokens, int(row["output_length"])))


def shares(row: Row) -> Sequence[float]:
    """How full each of a request's blocks is: all but the last one are whole."""
    full = len(row["hash_ids"]) - 1
    return [1.0] * full + [min(1.0, max(0.0, row["input_length"] / TOKENS_PER_ID - full))]


def checked(line: str) -> Row:
    """A line of the file. Raises SettingsError where it is none of such a trace."""
    try:
        row: Row = json.loads(line)
        numbers = [row["timestamp"], row["input_length"], row["output_length"], *row["hash_ids"]]
        if all(isinstance(number, int | float) for number in numbers) and row["hash_ids"]:
            return row
    except (ValueError, KeyError, TypeError):
        pass
    raise SettingsError(f"not a request of a Mooncake trace: {line.strip()[:80]}")
