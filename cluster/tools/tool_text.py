"""Takes the calls out of one completion's text."""

from dataclasses import replace

from cluster.api.text_delta import TextDelta
from cluster.tools.tool_call import ToolCall
from cluster.tools.tool_format import CallReader
from workers.request import FinishReason


class ToolText:
    """Reads the pieces of a completion in their order.

    Args:
        reader: of the form that the model writes calls in.
        parallel: whether the completion may have several; otherwise the first one ends it.
    """

    def __init__(self, reader: CallReader, parallel: bool) -> None:
        self._reader = reader
        self._parallel = parallel

    def read(self, delta: TextDelta) -> TextDelta:
        """The same with what of its text is decided, and calls apart; with the last piece comes all that is left."""
        pieces = [*self._reader.push(delta.text)]
        if delta.finish_reason is not None:
            pieces += self._reader.finish()
        calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
        if calls and not self._parallel:
            pieces = pieces[: pieces.index(calls[0]) + 1]
            calls, delta = calls[:1], replace(delta, finish_reason=FinishReason.STOP.value)
        return replace(delta, text="".join(piece for piece in pieces if isinstance(piece, str)), calls=tuple(calls))
