"""In which form a model writes its calls: what its chat template says of it."""

from collections.abc import Callable, Iterator, Set
from typing import Protocol

from cluster.tools.hermes import OPEN, HermesReader
from cluster.tools.llama import LlamaReader
from cluster.tools.tool_call import ToolCall


class CallReader(Protocol):
    """Finds calls in a text that comes piece by piece. Pushed and given out add up to the same, calls aside."""

    def push(self, text: str) -> Iterator[str | ToolCall]:
        """Take text in; give out what is decided."""

    def finish(self) -> Iterator[str | ToolCall]:
        """No more comes: give out what was held back."""


MakeReader = Callable[[Set[str]], CallReader]
OTHER_FORMS = ("<function=", "<arg_key>")  # between the same markers, but no JSON


def reader_for(template: str) -> MakeReader | None:
    """Makes readers of the form that a chat template teaches; None where it is neither Hermes' nor Llama 3's JSON."""
    if OPEN in template and "arguments" in template and not any(form in template for form in OTHER_FORMS):
        return HermesReader
    if "<|start_header_id|>" in template and '"parameters' in template:
        return LlamaReader
    return None
