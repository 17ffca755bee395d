"""OpenAI's own description of its API (OpenAPI), cut down to what is served here, for tests.

It is not part of this repository: it lies beside the checkout, or the tests that need it are skipped.
"""

import json
from typing import Any

import jsonschema

from cluster.api.unsupported import CHAT_ONLY, COMPLETION_ONLY
from tests.server import REPOSITORY

DOCUMENT = REPOSITORY.parent / "shared" / "data" / "openai" / "openapi.json"
PATHS = ("/chat/completions", "/completions", "/models", "/models/{model}")
REFUSALS = ("400", "404", "405", "413", "415", "429", "503")
TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}  # the model of these tests has no template for them
# Where the document allows what is refused here, or says nothing.
TIGHTER: dict[str, Any] = {
    "best_of": {"minimum": 1},
    "max_completion_tokens": {"minimum": 1, "maximum": 32},
    "max_tokens": {"minimum": 1, "maximum": 32},
    "top_p": {"minimum": 0.01},
}
PROMPT = {
    "oneOf": [
        {"type": "string", "minLength": 1, "maxLength": 20},
        {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "string", "minLength": 1, "maxLength": 20}},
        {"type": "array", "minItems": 1, "maxItems": 20, "items": {"type": "integer", "minimum": 0, "maximum": 4095}},
    ]
}


def trimmed() -> dict[str, Any]:
    """The document with the paths that are served, the errors that it leaves out, and the served model's name."""
    document: dict[str, Any] = json.loads(DOCUMENT.read_text("utf-8"))
    document["paths"] = {path: document["paths"][path] for path in PATHS}
    refusals = {status: {"description": "refused", "content": json_of("ErrorResponse")} for status in REFUSALS}
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        operation["responses"] |= refusals
    for path in ("/chat/completions", "/completions"):
        # What it says of a stream is of the events' data (`chunk_validator`); schemathesis takes it to be of events.
        document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"] = {"schema": {}}
    schemas = document["components"]["schemas"]
    schemas["ModelIdsShared"] = {"type": "string", "enum": ["tiny"]}
    schemas["CreateCompletionRequest"]["properties"] |= {"model": schemas["ModelIdsShared"], "prompt": PROMPT}
    for name, refused in (
        ("CreateCompletionRequest", COMPLETION_ONLY.keys()),
        ("CreateChatCompletionRequest", CHAT_ONLY.keys() | TOOLS),
    ):
        keep_honoured(schemas[name], refused)
    keep_honoured(schemas["CreateModelResponseProperties"], CHAT_ONLY.keys())
    keep_honoured(schemas["ModelResponseProperties"], CHAT_ONLY.keys())
    return document


def json_of(name: str) -> dict[str, Any]:
    """A body of this schema."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def keep_honoured(schema: dict[str, Any], refused: Any) -> None:
    """Leave out of a request's schema, in place, what is refused by name: most requests would be nothing else."""
    for part in (schema, *schema.get("allOf", ())):
        properties = part.get("properties", {})
        for name in properties.keys() & (refused | {"logit_bias"}):
            del properties[name]
        for name in properties.keys() & TIGHTER.keys():
            properties[name] |= TIGHTER[name]


def chunk_validator() -> jsonschema.Draft202012Validator:
    """For the events of a chat's stream."""
    document = nulls_spelled_out(trimmed())
    name = "#/components/schemas/CreateChatCompletionStreamResponse"
    return jsonschema.Draft202012Validator({"$ref": name, "components": document["components"]})


def nulls_spelled_out(value: Any) -> Any:
    """A schema in which what may be null says so as JSON Schema does, and not with OpenAPI 3.0's `nullable`."""
    if isinstance(value, list):
        return [nulls_spelled_out(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {key: nulls_spelled_out(item) for key, item in value.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if value.get("nullable") is True else plain
