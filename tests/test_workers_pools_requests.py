"""Aborts, refusals and lies at the doors of the prefill and the decode worker hurt nobody else."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import generate, num_leaked_blocks, request_of, small_engine
from tests.pair import Pair, requests
from workers.request import RequestError

pytestmark = pytest.mark.usefixtures("one_thread")


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
    """Before its first token is given, before it is admitted, and while it decodes."""
    pair.run_prefill(requests())
    for request in requests():
        pair.decode.add_request(request, pair.handoffs[request.request_id])
    outputs = [output for _ in range(steps) for _, output in pair.decode.step()]
    pair.decode.abort("long")
    pair.decode.abort("nobody")
    pair.decode.check_integrity()
    rest = pair.run_decode()
    assert "long" not in {output.request_id for output in rest}
    for name in ("shared", "blocks", "short"):
        assert [t for output in outputs + rest if output.request_id == name for t in output.token_ids] == expected[name]
    assert num_leaked_blocks(pair.engines[1]) == 0


def test_an_id_may_be_used_again_after_an_abort(pair: Pair, expected: dict[str, list[int]]) -> None:
    pair.run_prefill(requests())
    pair.decode.add_request(requests()[0], pair.handoffs["shared"])
    pair.decode.step()
    pair.decode.abort("shared")
    assert pair.run(requests()) == expected


def test_a_refused_request_leaves_the_others_alone(pair: Pair, expected: dict[str, list[int]]) -> None:
    pair.run_prefill(requests())
    for request in requests():
        pair.decode.add_request(request, pair.handoffs[request.request_id])
    with pytest.raises(RequestError, match="id shared is already running"):
        pair.decode.add_request(requests()[0], pair.handoffs["shared"])
    with pytest.raises(RequestError, match="context is 120 tokens; the prompt has 1 and max_tokens asks for 150 more"):
        pair.decode.add_request(request_of("big", [1], 150), pair.handoffs["shared"])
    with pytest.raises(RequestError, match="the prompt is empty"):
        pair.prefill.add_request(request_of("empty", []))
    with pytest.raises(RequestError, match="n is 2"):
        pair.prefill.add_request(request_of("two", [1], n=2))
    tokens: dict[str, list[int]] = {name: [] for name in expected}
    for output in pair.run_decode():
        tokens[output.request_id] += output.token_ids
    assert tokens == expected


@pytest.mark.parametrize("num_tokens", [-5, 0, 1, 15, 17, 19, 20, 500])
def test_a_hand_off_that_lies_about_its_length_harms_nobody(
    pair: Pair, expected: dict[str, list[int]], num_tokens: int
) -> None:
    """Not even itself: what it leaves out is computed, and beyond the prompt there is nothing to take."""
    pair.run_prefill(requests())
    for request in requests():
        pair.decode.add_request(request, replace(pair.handoffs[request.request_id], num_tokens=num_tokens))
    tokens: dict[str, list[int]] = {name: [] for name in expected}
    for output in pair.run_decode():
        tokens[output.request_id] += output.token_ids
    assert tokens == expected
    assert num_leaked_blocks(pair.engines[1]) == 0


def test_the_hand_off_of_another_prompt_kills_nobody(pair: Pair) -> None:
    pair.run_prefill(requests())
    shared, long = requests()[0], requests()[2]
    pair.decode.add_request(shared, pair.handoffs["long"])
    pair.decode.add_request(long, pair.handoffs["short"])
    assert {output.request_id for output in pair.run_decode() if output.finish_reason} == {"shared", "long"}
    assert num_leaked_blocks(pair.engines[1]) == 0
