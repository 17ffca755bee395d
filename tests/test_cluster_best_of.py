"""cluster/door/best_of.py: the likeliest of several completions."""

import pytest

from cluster.api.protocol import CompletionBody
from cluster.api.text_delta import TextDelta
from cluster.api.token_logprobs import DrawnToken, LikelyToken
from cluster.door.best_of import likeliest


def drawn(text: str, *logprobs: float) -> TextDelta:
    return TextDelta(text, "stop", tuple(DrawnToken(LikelyToken("x", logprob), ()) for logprob in logprobs))


DRAWN = [drawn("a", -2, -2), drawn("b", -1, -1, -1), drawn("c"), drawn("d", -9), drawn("e", -0.5), drawn("f", -3)]


@pytest.mark.parametrize(("n", "texts"), [(1, ["b", "e"]), (2, ["b", "a", "e", "f"])])
def test_the_likeliest_by_token_of_each_prompt(n: int, texts: list[str]) -> None:
    body = CompletionBody(model="m", prompt=["x", "y"], n=n, best_of=3)
    kept = likeliest(DRAWN, body)
    assert [one.text for one in kept] == texts
    assert {one.tokens for one in kept} == {None}, "they were not asked for"
    body = CompletionBody(model="m", prompt=["x", "y"], n=n, best_of=3, logprobs=0)
    assert likeliest(DRAWN, body)[0] == DRAWN[1]


def test_without_best_of_all_are_kept_in_order() -> None:
    assert likeliest(DRAWN, CompletionBody(model="m", prompt=["x", "y"], n=3)) == DRAWN


def test_what_is_to_be_ranked_is_drawn_with_log_probabilities() -> None:
    body = CompletionBody(model="m", prompt="x", best_of=3)
    assert (body.sampling(1).logprobs, body.num_logprobs, body.num_drawn) == (0, None, 3)
