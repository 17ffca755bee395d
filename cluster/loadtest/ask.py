"""The nouns of a load: one request, a conversation of them, and a profile that makes conversations."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        messages: what user and assistant have said in turn, the user first and last.
        max_tokens: of the answer; it always gets as long.
        shared_chars: how many characters at the beginning a server that forgets nothing has seen before in this run.
        group: what it is reported under, beside the total; empty for the total only.
        leave_after: the client leaves after so many pieces of the answer; None stays to the end.
    """

    messages: tuple[str, ...]
    max_tokens: int
    shared_chars: int = 0
    group: str = ""
    leave_after: int | None = None

    @property
    def num_chars(self) -> int:
        """Of the whole prompt."""
        return sum(map(len, self.messages))

    @property
    def shared_share(self) -> float:
        """The part of the prompt that a cache could hold at most; by characters, for only servers know tokens."""
        return self.shared_chars / max(1, self.num_chars)


Session = Generator[Ask, str, None]
"""A conversation: it yields what is asked next and is sent the answer to it."""


class Profile(Protocol):
    """A kind of load. The same settings make the same requests, as far as they do not depend on answers."""

    def sessions(self) -> Iterator[Session]:
        """All conversations, in the order in which they begin."""

    def starts_s(self) -> Iterator[float] | None:
        """When each begins, in seconds from the first on; None leaves that to --concurrency or --rate."""
