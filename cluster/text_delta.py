"""Text of a completion on its way to a client."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.token_logprobs import DrawnToken


@dataclass(frozen=True)
class TextDelta:
    """New text of a completion; the last one says why it ended.

    Attributes:
        tokens: what the text is made of, where log-probabilities were asked for; None where they were not.
    """

    text: str
    finish_reason: str | None
    tokens: tuple[DrawnToken, ...] | None = None


NOTHING = TextDelta("", None)


def joined(deltas: Sequence[TextDelta]) -> TextDelta:
    """All of a completion, of at least one piece."""
    text = "".join(delta.text for delta in deltas)
    if deltas[0].tokens is None:
        return TextDelta(text, deltas[-1].finish_reason)
    return TextDelta(text, deltas[-1].finish_reason, tuple(token for delta in deltas for token in delta.tokens or ()))
