"""Tool calls as the Llama 3 models write them: the whole answer is `{"name": ..., "parameters": ...}`, or several, with
semicolons between."""

import json
import re
from collections.abc import Iterator, Set

from cluster.tools.tool_call import ToolCall, call_of, refuse

PYTHON_TAG = "<|python_tag|>"
BETWEEN = re.compile(r"[\s;]*")
DECODER = json.JSONDecoder(parse_constant=refuse)


class LlamaReader:
    """Reads a completion piece by piece; however it is cut, the same comes out.

    An answer that begins with an object is held back until its end, for only then it is known whether it is calls and
    nothing else. Any other is text from its first letter on.

    Args:
        offered: names of the tools; a call of another is text.
    """

    def __init__(self, offered: Set[str]) -> None:
        self._offered = offered
        self._held: list[str] = []
        self._beginning = ""  # of what is held, without whitespace; until it is clear what it is
        self._is_text = False

    def push(self, text: str) -> Iterator[str | ToolCall]:
        """Take text in; give out what is decided."""
        if self._is_text:
            yield text
            return
        self._held.append(text)
        if self._beginning.startswith(("{", PYTHON_TAG)):
            return
        self._beginning = (self._beginning + text).lstrip()
        if not (self._beginning.startswith(("{", PYTHON_TAG)) or PYTHON_TAG.startswith(self._beginning)):
            self._is_text = True
            yield self._all_held()

    def finish(self) -> Iterator[str | ToolCall]:
        """What was held back: calls, or text where it is anything else."""
        text = self._all_held()
        calls = calls_in(text, self._offered)
        if calls:
            yield from calls
        elif text:
            yield text

    def _all_held(self) -> str:
        text = "".join(self._held)
        self._held = []
        return text


def calls_in(text: str, offered: Set[str]) -> list[ToolCall]:
    """The calls that a text consists of; none where there is anything else in it. Linear in the text's length."""
    found: list[ToolCall] = []
    text = text.lstrip().removeprefix(PYTHON_TAG).strip()
    place = 0
    try:
        while place < len(text):
            value, end = DECODER.raw_decode(text, place)
            call = call_of(value, offered)
            if call is None:
                return []
            found.append(call)
            between = BETWEEN.match(text, end)
            place = between.end() if between else end
    except (ValueError, RecursionError):
        return []
    return found
