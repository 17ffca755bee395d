"""docs/api.md says what the code does."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from starlette.testclient import TestClient

from cluster.api.protocol import ChatBody, CompletionBody
from cluster.api.reference import lines
from cluster.api.reference_notes import ENDPOINTS, ERRORS, NOTES, SHOWN, SHOWN_BY_DEFAULT
from cluster.api.schema_words import type_of
from tests.bad_requests import BAD_REQUESTS
from tests.test_cluster_routes import API

pytest_plugins = ["tests.frontend_fixtures"]

TESTS = Path(__file__).parent
PARAMETERS = {*ChatBody.model_fields, *CompletionBody.model_fields}


def test_the_document_is_up_to_date() -> None:
    """`python -m cluster.api.reference > docs/api.md` writes it."""
    assert (TESTS.parent / "docs" / "api.md").read_text("utf-8") == "\n".join(lines()) + "\n"


def test_every_path_is_in_it() -> None:
    assert ENDPOINTS.keys() == API.keys()


@pytest.mark.parametrize("parameter", sorted(PARAMETERS - {*ChatBody.unsupported, *CompletionBody.unsupported}))
def test_where_a_parameter_is_shown_it_is_spoken_of(parameter: str) -> None:
    shown = (TESTS / SHOWN.get(parameter, SHOWN_BY_DEFAULT)).read_text("utf-8")
    assert f'"{parameter}"' in shown or f"{parameter}=" in shown


def test_the_description_for_machines_names_the_same(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemathesis.openapi.from_dict(document).validate()
    for path, body in (("/v1/chat/completions", ChatBody), ("/v1/completions", CompletionBody)):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        named = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert named["properties"].keys() == body.model_fields.keys()


def test_no_parameter_is_spoken_of_that_there_is_not() -> None:
    assert NOTES.keys() | SHOWN.keys() <= PARAMETERS


def test_every_word_for_an_error_is_in_it() -> None:
    told = {(status, code) for status, codes, _ in ERRORS for code in codes.replace("`", "").split(", ")}
    assert told >= {(bad.status, bad.code or "null") for bad in BAD_REQUESTS}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 128}, "whole number, 1 to 128"),
        (
            {"type": "integer", "minimum": -(2**63), "exclusiveMaximum": 2**63},
            "whole number, at least -2^63, below 2^63",
        ),
        ({"type": "integer", "maximum": 2**31 - 1}, "whole number, at most 2^31 - 1"),
        ({"type": "number", "exclusiveMinimum": 0}, "number, above 0"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "`true` or `false`"),
        (
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4},
            "list, 0 to 4 items, each text, not empty",
        ),
        ({"$ref": "#/$defs/A"}, "`a` or `b`"),
        ({"type": "object"}, "object"),
    ],
)
def test_a_schema_in_words(schema: dict[str, Any], words: str) -> None:
    assert type_of(schema, {"A": {"enum": ["a", "b"]}}) == words
