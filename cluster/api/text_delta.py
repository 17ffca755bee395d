"""Text of a completion on its way to a client."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.api.token_logprobs import DrawnToken
from cluster.tools.tool_call import ToolCall


@dataclass(frozen=True)
class TextDelta:
    """New text of a completion; the last one says why it ended.

    Attributes:
        tokens: what the text is made of, where log-probabilities were asked for; None where they were not.
        calls: of tools, which are no part of the text.
    """

    text: str
    finish_reason: str | None
    tokens: tuple[DrawnToken, ...] | None = None
    calls: tuple[ToolCall, ...] = ()


NOTHING = TextDelta("", None)


def joined(deltas: Sequence[TextDelta]) -> TextDelta:
    """All of a completion, of at least one piece."""
    tokens = None if deltas[0].tokens is None else tuple(token for delta in deltas for token in delta.tokens or ())
    calls = tuple(call for delta in deltas for call in delta.calls)
    return TextDelta("".join(delta.text for delta in deltas), deltas[-1].finish_reason, tokens, calls)
