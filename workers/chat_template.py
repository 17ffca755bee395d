"""Chat templates: programs that come with a model, run on what clients say."""

from collections.abc import Callable
from typing import Any

from jinja2 import Template, nodes

from workers.validation import RequestError

MAX_TURNS = 200_000  # of all loops and calls of one rendering: half a second or so; a message takes one to ten
MAX_OUTPUT_PER_INPUT, MAX_EXTRA_OUTPUT = 4, 2**18  # characters
TURN = "raydix_turn"


class ChatTemplate:
    """A template in Transformers' sandbox, where it can reach nothing and change nothing, and with an end.

    Jinja's sandbox bounds neither how long a template runs nor how much it writes. So each turn of a loop and each call
    of a macro counts itself, and what is written is counted piece by piece.

    Raises:
        TemplateError: it is no template.
    """

    def __init__(self, source: str) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        environment = _compile_jinja_template(source).environment
        tree = environment.parse(source)
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            turn = nodes.Name(TURN, "load", lineno=node.lineno)
            node.body.insert(0, nodes.ExprStmt(nodes.Call(turn, [], [], None, None, lineno=node.lineno)))
        tree.set_environment(environment)
        self._template = Template.from_code(environment, environment.compile(tree), environment.globals)

    def render(self, num_characters: int, fields: dict[str, Any]) -> str:
        """What it makes of some fields.

        Args:
            num_characters: of all texts in the fields.

        Raises:
            TemplateError: it refuses them.
            RequestError: it does not end, or writes far more than it was given.
        """
        left = MAX_OUTPUT_PER_INPUT * num_characters + MAX_EXTRA_OUTPUT
        pieces = []
        for piece in self._template.generate({**fields, TURN: counter(MAX_TURNS)}):
            left -= len(piece)
            if left < 0:
                raise RequestError("the chat template of this model writes far more than it is given")
            pieces.append(piece)
        return "".join(pieces)


def counter(most: int) -> Callable[[], str]:
    """Counts its calls. Raises RequestError beyond the most."""
    count = 0

    def turn() -> str:
        nonlocal count
        count += 1
        if count > most:
            raise RequestError("the chat template of this model does not come to an end with these messages")
        return ""

    return turn
