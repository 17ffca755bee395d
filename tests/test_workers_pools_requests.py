"""Aborts, refusals and lies at the doors of the prefill and the decode worker hurt nobody else."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import generate, num_leaked_blocks, request_of, small_engine, tokens_by_request
from tests.pair import Damage, Pair, requests
from workers.pools.kv_handoff import KVHandoff
from workers.request import RequestError

pytestmark = pytest.mark.usefixtures("one_thread")
REFUSED = {
    "the prompt is empty": request_of("empty", []),
    "token ids outside 0 to 255": request_of("unknown", [1]).resumed([7, 256], 1, None),
    "nothing to go on with": request_of("over", [1], 3).resumed([5, 6, 7], 1, None),
    "n is 2": request_of("two", [1], n=2).resumed([5], 1, None),
}
REFUSED_TO_DECODE = {
    "id shared is already running": requests()[0],
    "context is 120 tokens; the prompt has 1 and max_tokens asks for 150 more": request_of("big", [1], 150),
}


@pytest.fixture(params=["plain", "ahead"])
def pair(untied_dir: Path, request: pytest.FixtureRequest) -> Pair:
    pair = Pair(small_engine(untied_dir), small_engine(untied_dir, num_blocks=30))
    if request.param == "ahead":
        pair.run_ahead()
    return pair


@pytest.fixture
def expected(untied_dir: Path) -> dict[str, list[int]]:
    return generate(small_engine(untied_dir).engine, requests())


def test_an_abort_in_the_prefill_worker(pair: Pair) -> None:
    for request in requests():
        pair.prefill.add_request(request)
    pair.prefill.abort("long")
    pair.prefill.abort("nobody")
    pair.prefill.check_integrity()
    pair.run_prefill([])
    assert sorted(pair.handoffs) == ["blocks", "shared", "short"]
    assert num_leaked_blocks(pair.engines[0]) == 0


@pytest.mark.parametrize("steps", range(6))
def test_an_abort_in_the_decode_worker(pair: Pair, expected: dict[str, list[int]], steps: int) -> None:
    """Before it is admitted, and while it decodes."""
    pair.run_prefill(requests())
    outputs = pair.hand_over(requests())
    outputs += [output for _ in range(steps) for _, output in pair.decode.step()]
    pair.decode.abort("long")
    pair.decode.abort("nobody")
    pair.decode.check_integrity()
    rest = pair.run_decode()
    assert "long" not in {output.request_id for output in rest}
    tokens = tokens_by_request(outputs + rest)
    given = tokens.pop("long")
    assert given == expected.pop("long")[: len(given)]
    assert steps <= len(given) <= steps + 1
    assert tokens == expected
    assert num_leaked_blocks(pair.engines[1]) == 0


def test_an_id_may_be_used_again_after_an_abort(pair: Pair, expected: dict[str, list[int]]) -> None:
    pair.run_prefill(requests())
    pair.hand_over(requests()[:1])
    pair.decode.step()
    pair.decode.abort("shared")
    assert pair.run(requests()) == expected


def test_a_refused_request_leaves_the_others_alone(pair: Pair, expected: dict[str, list[int]]) -> None:
    pair.run_prefill(requests())
    outputs = pair.hand_over(requests())
    prefilled, blocks = pair.handoffs["shared"].prefilled, pair.received["shared"]
    for message, request in (REFUSED | REFUSED_TO_DECODE).items():
        with pytest.raises(RequestError, match=message):
            pair.decode.add_prefilled(request, prefilled, blocks)
        with pytest.raises(RequestError, match=message):
            pair.decode.add_request(request)
    for message, request in REFUSED_TO_DECODE.items():
        with pytest.raises(RequestError, match=message):
            pair.decode.expect(request, prefilled)
    for message, request in REFUSED.items():
        with pytest.raises(RequestError, match=message):
            pair.prefill.add_request(request)
    assert tokens_by_request(outputs + pair.run_decode()) == expected
    assert [num_leaked_blocks(engine) for engine in pair.engines] == [0, 0]


def test_a_prompt_that_is_handed_on_gives_one_completion(pair: Pair) -> None:
    """Where it is computed and decoded in one place it may give more."""
    pair.run_prefill(requests())
    shared, two = pair.handoffs["shared"].prefilled, request_of("two", [1], n=2)
    with pytest.raises(RequestError, match="n is 2"):
        pair.prefill.add_request(two)
    with pytest.raises(RequestError, match="n is 2"):
        pair.decode.add_prefilled(two, shared, pair.decode.expect(two, shared))
    pair.decode.add_request(two)
    assert {output.index for output in pair.run_decode()} == {0, 1}
    assert [num_leaked_blocks(engine) for engine in pair.engines] == [0, 0]


@pytest.mark.parametrize("num_tokens", [-5, 0, 1, 15, 17, 19, 20, 500])
def test_a_hand_off_that_lies_about_its_length_harms_nobody(
    pair: Pair, expected: dict[str, list[int]], num_tokens: int
) -> None:
    """Not even itself: its KV is not taken but computed."""

    def lie(handoff: KVHandoff) -> KVHandoff:
        return handoff._replace(prefilled=replace(handoff.prefilled, num_tokens=num_tokens))

    assert pair.run(requests(), Damage(lie)) == expected


def test_the_hand_off_of_another_prompt_kills_nobody(pair: Pair) -> None:
    pair.run_prefill(requests())
    shared, _, long, _ = requests()
    pair.hand_over_as(shared, pair.handoffs["long"])
    pair.hand_over_as(long, pair.handoffs["short"])
    assert {output.request_id for output in pair.run_decode() if output.finish_reason} == {"shared", "long"}
    assert num_leaked_blocks(pair.engines[1]) == 0
