"""Requests that must be refused, each with the status, the field and the word that its client is told. The names are
those of the list that they were collected under, B01 to B106; several of one name are variants of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.api.request_body import MAX_BODY_BYTES

CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "import os"}], "max_tokens": 4}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "import os", "max_tokens": 4}
VOCAB = 4096  # tokens of the bundled model


@dataclass(frozen=True)
class BadRequest:
    """A request, and what its client is told."""

    name: str
    status: int
    param: str | None
    code: str | None
    body: bytes
    path: str = CHAT_PATH
    headers: Mapping[str, str] = field(default_factory=JSON.copy)
    method: str = "POST"


def chat(name: str, param: str | None, code: str | None, status: int = 400, **fields: Any) -> BadRequest:
    """A chat whose other fields are right."""
    return BadRequest(name, status, param, code, json.dumps(CHAT | fields).encode())


def text(name: str, param: str | None, code: str | None, status: int = 400, **fields: Any) -> BadRequest:
    """A text completion whose other fields are right."""
    return BadRequest(name, status, param, code, json.dumps(TEXT | fields).encode(), TEXT_PATH)


def message(name: str, param: str, code: str, said: Any) -> BadRequest:
    """A chat of one message, at fault at this place of it."""
    return chat(name, f"messages[0]{param}", code, messages=[said])


def spelled(name: str, param: str | None, code: str | None, values: str) -> BadRequest:
    """A chat with fields that are spelled as no JSON library would."""
    return BadRequest(name, 400, param, code, f"{json.dumps(CHAT)[:-1]}, {values}}}".encode())


def without(values: dict[str, Any], name: str) -> bytes:
    """A body that lacks a field."""
    return json.dumps({key: value for key, value in values.items() if key != name}).encode()


def nested(depth: int) -> Any:
    """Objects in each other."""
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def schema(**fields: Any) -> dict[str, Any]:
    """A response format with a schema."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": fields}}


TOOL = {"type": "function", "function": {"name": "f", "parameters": nested(201)}}
DUPLICATE = b'{"model": "tiny", "model": "tiny", "messages": []}'
BELOW, ABOVE = "integer_below_min_value", "integer_above_max_value"
LOW, HIGH = "decimal_below_min_value", "decimal_above_max_value"
MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
LONG, TOO_MANY, EMPTY = "string_above_max_length", "array_above_max_length", "empty_array"
CONTEXT, UNSUPPORTED = "context_length_exceeded", "unsupported_parameter"
TOO_LARGE = "request_too_large"

BODIES = (
    *(BadRequest(f"B{place:02}", 400, None, None, body) for place, body in enumerate([b"", b"{", b"[]", b"null"], 1)),
    BadRequest("B05", 400, None, None, json.dumps(CHAT).encode() + b"\xff"),
    BadRequest("B06", 400, None, None, json.dumps(CHAT).encode("utf-16")),
    BadRequest("B07", 400, None, None, b"\xef\xbb\xbf" + json.dumps(CHAT).encode()),
    BadRequest("B08", 415, None, "unsupported_media_type", b"{}", headers={"content-type": "text/plain"}),
    BadRequest("B09", 415, None, "unsupported_media_type", b"{}", headers={}),
    BadRequest("B10", 413, None, TOO_LARGE, b" " * (MAX_BODY_BYTES + 1)),
    chat("B12", None, None, tools=[TOOL]),
    BadRequest("B13", 400, None, None, b"[" * 100_000),
    BadRequest("B14", 400, "model", "duplicate_parameter", DUPLICATE),
    spelled("B15", "seed", TYPE, f'"seed": {"1" * 5000}'),
    BadRequest("B16", 400, None, None, rb'{"messages": [{"role": "user", "content": "\ud800"}]}'),
    spelled("B17", None, None, r'"stop": "\ud800"'),
    BadRequest("B19", 405, None, None, b"", method="GET", headers={}),
    BadRequest("B20", 404, None, "unknown_url", b"{}", "/v1/nothing"),
)
NAMES = (
    BadRequest("B25", 400, "model", MISSING, without(CHAT, "model")),
    chat("B26", "model", TYPE, model=5),
    chat("B27", "model", VALUE, model=""),
    chat("B28", "model", "model_not_found", 404, model="gpt"),
    chat("B29", "model", "model_not_found", 404, model="../../etc"),
)
MESSAGES = (
    BadRequest("B30", 400, "messages", MISSING, without(CHAT, "messages")),
    chat("B31", "messages", EMPTY, messages=[]),
    chat("B32", "messages", TYPE, messages="hi"),
    message("B33", ".role", VALUE, {"role": "root", "content": "x"}),
    message("B34", ".role", MISSING, {"content": "x"}),
    message("B35", ".content", TYPE, {"role": "user", "content": 5}),
    message("B36", ".content", TYPE, {"role": "user", "content": None}),
    message("B37", ".content[0].type", "unsupported_value", {"role": "user", "content": [{"type": "image_url"}]}),
    message("B38", ".content[0].type", "unsupported_value", {"role": "user", "content": [{"type": "smell"}]}),
    chat("B39", "messages", TOO_MANY, messages=CHAT["messages"] * 100_001),
)
PROMPTS = (
    chat("B40", "messages", CONTEXT, messages=[{"role": "user", "content": "x = 1\n" * 3000}]),
    text("B40", "prompt", CONTEXT, prompt="x = 1\n" * 3000),
    chat("B41", "max_tokens", CONTEXT, max_tokens=5000),
    chat("B42", "messages", CONTEXT, messages=[{"role": "user", "content": "x" * 5_000_000}]),
    chat("B43", "messages", CONTEXT, messages=[{"role": "user", "content": "🙂" * 1_000_000}]),
    text("B44", "prompt", VALUE, prompt=""),
    text("B45", "prompt", EMPTY, prompt=[]),
    text("B46", "prompt[0]", VALUE, prompt=[VOCAB]),
    text("B47", "prompt[0]", BELOW, prompt=[-1]),
    text("B48", "prompt[0]", TYPE, prompt=[1.5]),
)
LIMITS = (
    chat("B49", "max_tokens", BELOW, max_tokens=-1),
    chat("B50", "max_tokens", BELOW, max_tokens=0),
    chat("B51", "max_tokens", TYPE, max_tokens=1.5),
    chat("B52", "max_tokens", TYPE, max_tokens=True),
    chat("B53", "max_tokens", ABOVE, max_tokens=2**63),
    chat("B54", "max_tokens", VALUE, max_completion_tokens=5),
    chat("B65", "n", BELOW, n=0),
    chat("B66", "n", ABOVE, n=10**9),
)
SAMPLING = (
    spelled("B55", "temperature", VALUE, '"temperature": NaN'),
    spelled("B56", "temperature", VALUE, '"temperature": 1e999'),
    chat("B57", "temperature", LOW, temperature=-0.1),
    chat("B58", "temperature", HIGH, temperature=2.01),
    chat("B59", "temperature", TYPE, temperature="1"),
    chat("B60", "top_p", LOW, top_p=0),
    chat("B61", "top_p", HIGH, top_p=1.5),
    chat("B62", "top_k", BELOW, top_k=-5),
    chat("B63", "presence_penalty", HIGH, presence_penalty=2.1),
    chat("B63", "frequency_penalty", LOW, frequency_penalty=-2.1),
    chat("B64", "repetition_penalty", LOW, repetition_penalty=0),
    chat("B68", "logit_bias", VALUE, logit_bias={str(VOCAB): 1}),
    chat("B69", "logit_bias", VALUE, logit_bias={"-1": 1}),
    chat("B70", "logit_bias", VALUE, logit_bias={"AI": 1}),
    chat("B71", "logit_bias", HIGH, logit_bias={"1": 101}),
    chat("B71", "logit_bias", VALUE, logit_bias={"1": float("nan")}),
    chat("B72", "logit_bias", TOO_MANY, logit_bias={str(token): 1 for token in range(1025)}),
    chat("B78", "seed", ABOVE, seed=2**64),
    chat("B79", "seed", TYPE, seed="a"),
    chat("B80", "top_logprobs", ABOVE, logprobs=True, top_logprobs=21),
    chat("B80", "top_logprobs", VALUE, top_logprobs=1),
)
STOPS = (
    chat("B73", "stop", TOO_MANY, stop=["a"] * 5),
    chat("B74", "stop", VALUE, stop=""),
    chat("B75", "stop", LONG, stop="x" * 10_000),
    chat("B76", "stop[0]", TYPE, stop=[1]),
    chat("B77", "stop_token_ids[0]", VALUE, stop_token_ids=[VOCAB]),
)
FORMS = (
    chat("B81", "stream", TYPE, stream="yes"),
    chat("B82", "stream_options", VALUE, stream_options={"include_usage": True}),
    # Schemas are refused as such, and so are not looked at: what is wrong with one has no word of its own.
    chat("B83", "response_format", VALUE, response_format={"type": "xml"}),
    chat("B84", "response_format", UNSUPPORTED, response_format=schema(type="banana")),
    chat("B85", "response_format", UNSUPPORTED, response_format=schema(type="string", pattern="foo**")),
    chat("B86", "response_format", UNSUPPORTED, response_format=schema(type="string", pattern="(a+)+$")),
    chat("B87", "response_format", UNSUPPORTED, response_format=schema(**{"$ref": "http://127.0.0.1:9/x"})),
    chat("B88", "response_format", UNSUPPORTED, response_format=schema(enum=["x" * 1000] * 10_000)),
    chat("B89", "tools", TYPE, tools="f"),
    chat("B90", "tools[0].function.name", MISSING, tools=[{"type": "function", "function": {}}]),
    chat(
        "B91",  # no tool can be forced, whether it exists or not
        "tool_choice",
        UNSUPPORTED,
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice={"type": "function", "function": {"name": "g"}},
    ),
)
OTHERS = (
    chat("B93", "prompt_embeds", UNSUPPORTED, prompt_embeds="AAAA"),
    chat("B93", "chat_template", UNSUPPORTED, chat_template="{{ messages }}"),
    chat("B93", "chat_template_kwargs", UNSUPPORTED, chat_template_kwargs={"tokenize": True}),
    chat("B94", "cache_salt", VALUE, cache_salt=""),
    chat("B95", "cache_salt", VALUE, cache_salt="x" * 1024),
    chat("B96", "metadata", TOO_MANY, metadata={str(count): "x" for count in range(17)}),
    chat("B96", "metadata", LONG, metadata={"a": "x" * 513}),
)
BAD_REQUESTS = BODIES + NAMES + MESSAGES + PROMPTS + LIMITS + SAMPLING + STOPS + FORMS + OTHERS

# Those that one request to an API without keys cannot bring about, and where they are shown instead.
ELSEWHERE = {
    "B11": "test_cluster_serve_bad_requests.py: a body without a length, cut off in the middle",
    "B18": "test_cluster_serve_bad_requests.py: a character that looks wrong, and is answered",
    "B21": "test_cluster_auth.py: no key",
    "B22": "test_cluster_auth.py: a wrong key",
    "B23": "test_cluster_auth.py: a key of another kind",
    "B24": "test_cluster_auth.py: a key that is not ASCII",
    "B67": "test_cluster_serve_bad_requests.py: as many choices as there may be, streamed, and answered",
    "B92": "test_cluster_frontend.py: an unknown field is ignored and named",
    "B97": "test_cluster_frontend_ends.py, test_cluster_admission.py: a full door",
    "B98": "test_cluster_metering.py: a tenant over its limits",
    "B99": "test_cluster_frontend_ends.py: no worker",
    "B100": "test_cluster_journey_ends.py: workers that are about to stop; their requests go on elsewhere",
    "B101": "test_cluster_frontend_ends.py: the time is over",
    "B102": "test_cluster_frontend_ends.py: a failure in a stream",
    "B103": "test_cluster_serve.py, test_cluster_frontend_ends.py: a client that leaves",
    "B104": "test_cluster_serve_bad_requests.py: two ways of telling where the body ends",
    "B105": "test_cluster_serve_bad_requests.py: two lengths",
    "B106": "test_cluster_serve_bad_requests.py: a header of 8 MB",
}
