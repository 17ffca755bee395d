"""Tool calls as the Hermes, Qwen 2.5 and Qwen 3 models write them:
`<tool_call>{"name": ..., "arguments": ...}</tool_call>`."""

import re
from collections.abc import Iterator, Set

from cluster.tools.tool_call import ToolCall, read_call

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKERS = re.compile(f"({OPEN}|{CLOSE})")


class HermesReader:
    """Reads a completion piece by piece; however it is cut, the same comes out.

    Whitespace around a call belongs to it: chat templates put it there, and put it there again when the answer comes
    back as a message.

    Args:
        offered: names of the tools; a call of another is text.
    """

    def __init__(self, offered: Set[str]) -> None:
        self._offered = offered
        self._unsplit = ""  # may be the beginning of a marker
        self._call: list[str] | None = None  # pieces of the call that has begun
        self._space: list[str] = []  # goes out with the text that follows it
        self._after_call = False

    def push(self, text: str) -> Iterator[str | ToolCall]:
        """Take text in; give out what is decided."""
        *parts, rest = MARKERS.split(self._unsplit + text)
        held = num_suspect(rest)
        self._unsplit = rest[len(rest) - held :]
        for part in (*parts, rest[: len(rest) - held]):
            yield from self._take(part)

    def finish(self) -> Iterator[str | ToolCall]:
        """What was held back: a call that never ended is text."""
        unsplit, self._unsplit = self._unsplit, ""
        yield from self._take(unsplit)
        yield from self._give_up_call()
        if self._space and not self._after_call:
            yield "".join(self._space)

    def _take(self, part: str) -> Iterator[str | ToolCall]:
        if part == OPEN:
            yield from self._give_up_call()
            self._call = []
        elif self._call is None:
            yield from self._say(part)
        elif part == CLOSE:
            yield from self._end_call("".join(self._call))
        else:
            self._call.append(part)

    def _end_call(self, body: str) -> Iterator[str | ToolCall]:
        call = read_call(body, self._offered)
        self._call = None
        if call is None:
            yield from self._say(f"{OPEN}{body}{CLOSE}")
        else:
            self._space, self._after_call = [], True
            yield call

    def _give_up_call(self) -> Iterator[str]:
        if self._call is not None:
            text = OPEN + "".join(self._call)
            self._call = None
            yield from self._say(text)

    def _say(self, text: str) -> Iterator[str]:
        """Text, but for whitespace at its end."""
        said = text.rstrip()
        if said:
            yield "".join(self._space) + said
            self._space, self._after_call = [], False
        self._space.append(text[len(said) :])


def num_suspect(text: str) -> int:
    """Length of the longest end of `text` that a marker begins with."""
    lengths = range(min(len(CLOSE) - 1, len(text)), 0, -1)
    return next(
        (length for length in lengths if OPEN.startswith(text[-length:]) or CLOSE.startswith(text[-length:])), 0
    )
