"""What a request offers the model to call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.api.errors import ApiError
from cluster.tools.bodies import ToolBody
from cluster.tools.tool_format import MakeReader, reader_for
from cluster.tools.tool_text import ToolText


@dataclass(frozen=True)
class ToolOffer:
    """Tools, and how their calls are read.

    Attributes:
        tools: as chat templates expect them.
        parallel: whether an answer may have several calls.
    """

    tools: list[dict[str, Any]]
    make_reader: MakeReader
    parallel: bool

    def text(self) -> ToolText:
        """A reader for one completion."""
        names = {tool["function"]["name"] for tool in self.tools}
        return ToolText(self.make_reader(names), self.parallel)


def offer_of(tools: Sequence[ToolBody], parallel: bool, template: str) -> ToolOffer:
    """An offer of these tools to a model.

    Args:
        template: the model's chat template.

    Raises:
        ApiError: 400, its template knows no tools, or their calls could not be read.
    """
    make_reader = reader_for(template) if "tools" in template else None
    if make_reader is None:
        reason = "writes their calls in a form that is not read here" if "tools" in template else "knows none"
        message = f"this model cannot be given tools: its chat template {reason}; leave tools out"
        raise ApiError(400, message, param="tools", code="unsupported_parameter")
    return ToolOffer([tool.as_dict() for tool in tools], make_reader, parallel)
