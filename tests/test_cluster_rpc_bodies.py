"""cluster/rpc/bodies.py: what is asked over gRPC is the body that HTTP would have brought, right or wrong."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.api.errors import ApiError
from cluster.api.protocol import ChatBody, CompletionBody
from cluster.api.tokenize_bodies import TokenizeBody
from cluster.api.validation import validated
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.bodies import SAMPLING, body_of, tokenize_body_of

COUNTS, NUMBERS = st.integers(0, 300) | st.integers(0, 2**32 - 1), st.floats() | st.floats(-3, 3)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "root", ""]), "content": TEXTS}),
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": COUNTS,
    "temperature": NUMBERS,
    "top_p": NUMBERS,
    "top_k": COUNTS,
    "min_p": NUMBERS,
    "seed": st.integers(-(2**63), 2**63 - 1),
    "min_tokens": COUNTS,
    "ignore_eos": st.booleans(),
    "presence_penalty": NUMBERS,
    "frequency_penalty": NUMBERS,
    "repetition_penalty": NUMBERS,
    "n": COUNTS,
    "prompt_cache_key": TEXTS,
    "stop": st.lists(TEXTS, min_size=1, max_size=6),
    "stop_token_ids": st.lists(COUNTS, min_size=1, max_size=5),
    "logit_bias": st.dictionaries(COUNTS, NUMBERS, min_size=1, max_size=5),
}


def outcome(make: Any) -> Any:
    """The body, or what is told of it."""
    try:
        return repr(make())
    except ApiError as error:
        return error.status, error.body()


def test_every_field_is_drawn() -> None:
    one_of = {"model", "text", "tokens", "conversation"}
    assert set(pb.GenerateRequest.DESCRIPTOR.fields_by_name) == FIELDS.keys() | one_of
    assert set(SAMPLING) == FIELDS.keys() - {"stop", "stop_token_ids", "logit_bias"}


@given(
    fields=st.fixed_dictionaries({}, optional=FIELDS),
    prompt=st.tuples(st.just("text"), TEXTS)
    | st.tuples(st.just("tokens"), st.lists(COUNTS, max_size=4))
    | st.tuples(st.just("conversation"), MESSAGES),
)
def test_a_request_is_the_same_over_both(fields: dict[str, Any], prompt: tuple[str, Any]) -> None:
    kind, value = prompt
    wrapped = {"text": value, "tokens": {"ids": value}, "conversation": {"messages": value}}[kind]
    asked = pb.GenerateRequest(**{"model": "m", kind: wrapped} | fields)
    body = dict(fields)
    if "logit_bias" in fields:
        body["logit_bias"] = {str(token): bias for token, bias in fields["logit_bias"].items()}
    if kind == "conversation":
        expected = outcome(lambda: validated(ChatBody, {"model": "m", "messages": value} | body))
    else:
        expected = outcome(lambda: validated(CompletionBody, {"model": "m", "prompt": value} | body))
    assert outcome(lambda: body_of(asked)) == expected


@given(text=TEXTS, messages=MESSAGES)
def test_so_is_one_for_tokens(text: str, messages: list[dict[str, str]]) -> None:
    talk = pb.TokenizeRequest(model="m", conversation=pb.Conversation(messages=messages))
    assert outcome(lambda: tokenize_body_of(pb.TokenizeRequest(model="m", text=text))) == outcome(
        lambda: validated(TokenizeBody, {"model": "m", "prompt": text})
    )
    assert outcome(lambda: tokenize_body_of(talk)) == outcome(
        lambda: validated(TokenizeBody, {"model": "m", "messages": messages})
    )


def test_what_is_left_out_is_left_out() -> None:
    for asked in (pb.GenerateRequest(), pb.GenerateRequest(model="m")):
        told = outcome(lambda asked=asked: body_of(asked))
        assert told[1]["error"]["code"] == "missing_required_parameter"
