"""Writes docs/api.md from the bodies that the API checks requests against: `python -m cluster.api.reference`."""

import json
from collections.abc import Iterator

from pydantic import BaseModel

from cluster.api.protocol import ChatBody, CompletionBody, GenerationBody
from cluster.api.reference_notes import ENDPOINTS, ERRORS, NOTES, REFUSALS, SHOWN, SHOWN_BY_DEFAULT
from cluster.api.request_body import IGNORED_HEADER, MAX_BODY_BYTES, MAX_SHOWN
from cluster.api.schema_words import type_of
from cluster.api.strict_json import MAX_DEPTH, MAX_VALUES
from cluster.api.tokenize_bodies import DetokenizeBody, TokenizeBody


def parameters(body: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Each field and what it may be."""
    schema = body.model_json_schema()
    for name, field in schema["properties"].items():
        needed = " (required)" if name in schema.get("required", ()) else ""
        yield name, type_of(field, schema.get("$defs", {})) + needed


def table(*heads: str) -> Iterator[str]:
    """The head of a table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"


def honoured(body: type[GenerationBody]) -> Iterator[str]:
    """A row for each parameter that is not refused."""
    yield from table("parameter", "what it may be", "what it does", "shown by")
    for name, said in parameters(body):
        if name not in body.unsupported:
            shown = SHOWN.get(name, SHOWN_BY_DEFAULT)
            yield f"| `{name}` | {said} | {NOTES.get(name, 'honoured')} | {shown} |"


def refused(body: type[GenerationBody]) -> Iterator[str]:
    """A row for each parameter that is refused by name."""
    yield from table("refused", "unless it is")
    for name, neutral in sorted(body.unsupported.items()):
        yield f"| `{name}` | {', '.join(f'`{json.dumps(value)}`' for value in neutral)} |"


def lines() -> Iterator[str]:
    """The whole document."""
    yield from (
        "# The API",
        "",
        "Written by `python -m cluster.api.reference` from what requests are checked against; a test keeps it up to",
        "date. Paths, parameters and errors are OpenAI's, or vLLM's where that is said. gRPC has the same requests and",
        "the same checks ([grpc.md](grpc.md)).",
        "",
        *table("path", "what it gives"),
        *(f"| `{method} {path}` | {what} |" for (method, path), what in ENDPOINTS.items()),
        "",
        "What operators ask has a port of its own ([security.md](security.md)).",
    )
    for title, body in (("/v1/chat/completions", ChatBody), ("/v1/completions", CompletionBody)):
        yield from ("", f"## {title}", "", *honoured(body), "", *refused(body))
    for title, other in (("/tokenize", TokenizeBody), ("/detokenize", DetokenizeBody)):
        yield from ("", f"## {title}", "", *table("parameter", "what it may be"))
        yield from (f"| `{name}` | {said} |" for name, said in parameters(other))
    yield from closing()


def closing() -> Iterator[str]:
    """What holds for all of them."""
    yield from (
        "",
        "## What is not known",
        "",
        "Fields that stand in none of these tables are ignored, for clients send many. The answer names the first",
        f"{MAX_SHOWN} in the header `{IGNORED_HEADER}`.",
        "",
        "## Errors",
        "",
        'Always `{"error": {"message", "type", "param", "code"}}`. `param` is the path of the field at fault, such as',
        "`messages[0].role`. The first that is found is told, in this order: the key, the body's size, JSON, types and",
        "ranges, the model, its tokens. Nothing is clamped or converted. A body is UTF-8 without a byte order mark,",
        f"{MAX_BODY_BYTES // 2**20} MiB, {MAX_VALUES:,} values and {MAX_DEPTH} levels at most. Refusals are shown, one",
        f"by one, by {REFUSALS}.",
        "",
        *table("status", "code", "when"),
        *(f"| {status} | {code} | {when} |" for status, code, when in ERRORS),
        "",
        'An error after a stream has begun is an event `data: {"error": ...}`, and no `[DONE]` follows it.',
    )


def main() -> None:
    """Write the document to the terminal."""
    print("\n".join(lines()))


if __name__ == "__main__":
    main()
