"""Log-probabilities in the API's two forms."""

import pytest

from cluster.api.answers import ChatAnswer, TextAnswer, Usage
from cluster.api.text_delta import TextDelta
from cluster.api.token_logprobs import DrawnToken, LikelyToken, chat_logprobs, drawn_tokens, text_logprobs
from workers.request import FinishReason, RequestOutput, TokenLogprobs
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL

TOKENS = [
    DrawnToken(LikelyToken("de", -0.5), (LikelyToken("de", -0.5), LikelyToken("a", -1.0))),
    DrawnToken(LikelyToken("f ", -2.0), (LikelyToken("\ufffd", -0.25), LikelyToken("x", -3.0))),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


def output(token_ids: tuple[int, ...], finish_reason: FinishReason | None = None) -> RequestOutput:
    logprobs = tuple(TokenLogprobs(-float(place), 1, ((7, -0.1),)) for place in range(len(token_ids)))
    return RequestOutput("r", token_ids, 0, finish_reason, logprobs=logprobs)


def test_tokens_are_spelled_and_the_one_that_stops_is_left_out(tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode("def f")[1:])
    drawn = drawn_tokens(output(ids), tokenizer)
    assert "".join(one.drawn.text for one in drawn) == "def f"
    assert [one.drawn.logprob for one in drawn] == [-float(place) for place in range(len(ids))]
    assert all(one.top == (LikelyToken(tokenizer.decode([7]), -0.1),) for one in drawn)
    assert len(drawn_tokens(output(ids, FinishReason.LENGTH), tokenizer)) == len(ids)
    assert len(drawn_tokens(output(ids, FinishReason.STOP), tokenizer)) == len(ids) - 1


def test_without_log_probabilities_there_is_nothing_to_say(tokenizer: Tokenizer) -> None:
    assert drawn_tokens(RequestOutput("r", (5, 6), 0), tokenizer) == []


def test_of_a_text_completion() -> None:
    assert text_logprobs(TOKENS, 10) == {
        "tokens": ["de", "f "],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"de": -0.5, "a": -1.0}, {"f ": -2.0, "\ufffd": -0.25, "x": -3.0}],
        "text_offset": [10, 12],
    }


def test_of_a_chat_completion() -> None:
    (first, second), refusal = chat_logprobs(TOKENS)["content"], chat_logprobs(TOKENS)["refusal"]
    assert refusal is None
    assert (first["token"], first["logprob"], first["bytes"]) == ("de", -0.5, [100, 101])
    assert [one["token"] for one in first["top_logprobs"]] == ["de", "a"]
    assert second["top_logprobs"][0]["bytes"] is None, "a part of a character"


def test_offsets_go_on_from_chunk_to_chunk_of_each_choice() -> None:
    answer = TextAnswer("m")
    pieces = [(choice, TextDelta("", None, (token,))) for token in TOKENS for choice in (0, 1)]
    chunks = [answer.chunk(*piece)["choices"][0] for piece in pieces]
    assert [chunk["index"] for chunk in chunks] == [0, 1, 0, 1]
    assert [chunk["logprobs"]["text_offset"] for chunk in chunks] == [[0], [0], [2], [2]]


@pytest.mark.parametrize("answer", [TextAnswer("m"), ChatAnswer("m")])
def test_nothing_is_said_where_nothing_was_asked(answer: TextAnswer | ChatAnswer) -> None:
    assert answer.chunk(0, TextDelta("x", None))["choices"][0]["logprobs"] is None
    asked = [TextDelta("x", "stop"), TextDelta("x", "stop", tuple(TOKENS))]
    assert [choice["logprobs"] is None for choice in answer.whole(asked, Usage(1, 2, 0, 0))["choices"]] == [True, False]
