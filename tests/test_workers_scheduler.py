"""Continuous batching on the witness model: budgets, order, preemption, refusal and abort."""

import pytest

from tests.helpers import drain, generate, num_leaked_blocks, request_of, tokens_by_request
from tests.witness import WitnessEngine, expected_tokens
from workers.engine.sequence import SequenceStatus
from workers.request import GenerationRequest, RequestError

ENDLESS = {"ignore_eos": True}


def prompt(start: int, length: int) -> list[int]:
    """Tokens that share no prefix with those of another `start`."""
    return [(start + 7 * position) % 31 + 1 for position in range(length)]


def test_no_step_computes_more_than_its_budget() -> None:
    engine = WitnessEngine(num_blocks=40, max_num_seqs=4, max_num_batched_tokens=8)
    generate(engine, [request_of(str(i), prompt(i, 5 + 3 * i), 6, **ENDLESS) for i in range(6)])
    sizes = [sum(count for _, count in batch) for batch in engine.runner.batches]
    assert max(sizes) == 8
    assert max(len(batch) for batch in engine.runner.batches) == 4


def test_a_long_prompt_is_computed_in_chunks_beside_decodes() -> None:
    engine = WitnessEngine(num_blocks=40)
    engine.add_request(request_of("short", prompt(0, 3), 9, **ENDLESS))
    engine.step()
    engine.add_request(request_of("long", prompt(1, 20), 2, **ENDLESS))
    drain(engine.step, engine)
    chunks = [[("short", 1), ("long", 7)], [("short", 1), ("long", 7)], [("short", 1), ("long", 6)]]
    assert engine.runner.batches[1:4] == chunks


def test_requests_are_admitted_in_the_order_they_came() -> None:
    engine = WitnessEngine(num_blocks=12, max_num_seqs=2)
    names = ["a", "b", "c", "d", "e"]
    generate(engine, [request_of(name, prompt(i, 17 if name == "b" else 4), 5) for i, name in enumerate(names)])
    seen = [name for batch in engine.runner.batches for name, _ in batch]
    assert sorted(names, key=seen.index) == names


def test_a_request_too_big_for_now_is_not_overtaken() -> None:
    engine = WitnessEngine(num_blocks=6)
    for request in (request_of("first", prompt(0, 9), 8), request_of("big", prompt(1, 20), 2)):
        engine.add_request(request)
    engine.add_request(request_of("small", prompt(2, 2), 2))
    engine.step()
    statuses = [engine.sequence(name).status for name in ("first", "big", "small")]
    assert statuses == [SequenceStatus.RUNNING, SequenceStatus.WAITING, SequenceStatus.WAITING]
    drain(engine.step, engine)


def test_the_youngest_is_preempted_and_still_gets_its_tokens() -> None:
    engine = WitnessEngine(num_blocks=8, max_num_seqs=3, max_num_batched_tokens=64)
    requests = [request_of(name, prompt(i, 7), 17, **ENDLESS) for i, name in enumerate("abc")]
    outputs = generate(engine, requests)
    assert outputs == {request.request_id: expected_tokens(request) for request in requests}
    assert runs_through(engine, "a"), "the oldest always keeps its place"
    assert not runs_through(engine, "c"), "eight blocks cannot hold three sequences of six"


def test_a_preempted_sequence_keeps_its_place_in_the_queue() -> None:
    engine = WitnessEngine(num_blocks=8, max_num_seqs=3, max_num_batched_tokens=64)
    generate(engine, [request_of(name, prompt(i, 7), 17, **ENDLESS) for i, name in enumerate("abcd")])
    prefills = [name for batch in engine.runner.batches for name, count in batch if count > 1]
    assert prefills.count("c") > 1, "the test is about a preempted sequence"
    assert prefills.index("d") > len(prefills) - 1 - prefills[::-1].index("c")


def runs_through(engine: WitnessEngine, name: str) -> bool:
    """Whether a sequence was in every step from its first to its last."""
    present = [any(item[0] == name for item in batch) for batch in engine.runner.batches]
    first, last = present.index(True), len(present) - 1 - present[::-1].index(True)
    return all(present[first : last + 1])


def test_many_at_the_edge_of_the_pool_all_finish() -> None:
    engine = WitnessEngine(num_blocks=8, max_num_seqs=8, max_num_batched_tokens=16)
    requests = [request_of(str(i), prompt(i % 3, 4 + i), 32 - 4 - i, **ENDLESS) for i in range(12)]
    for request in requests:
        engine.add_request(request)
    outputs = drain(engine.step, engine, max_steps=1500)
    assert tokens_by_request(outputs) == {request.request_id: expected_tokens(request) for request in requests}
    assert num_leaked_blocks(engine) == 0


def test_a_request_that_can_never_fit_is_refused_with_numbers() -> None:
    engine = WitnessEngine(num_blocks=12)
    with pytest.raises(RequestError, match=r"grow to 49 tokens, which take 13 KV blocks; this worker has 12"):
        engine.add_request(request_of("big", prompt(0, 40), 9))
    assert not engine.has_work
    assert len(generate(engine, [request_of("fits", prompt(0, 40), 8, **ENDLESS)])["fits"]) == 8


BAD_REQUESTS = {
    "the prompt is empty": request_of("x", []),
    "token ids outside 0 to 31": request_of("x", [1, 32]),
    "outside 0 to 31": request_of("x", [-1]),
    "context is 200 tokens; the prompt has 190 and max_tokens asks for 11 more": request_of("x", [1] * 190, 11),
}


@pytest.mark.parametrize(("message", "request_"), BAD_REQUESTS.items())
def test_a_bad_request_is_refused_and_leaves_nothing(message: str, request_: GenerationRequest) -> None:
    engine = WitnessEngine(num_blocks=60)
    with pytest.raises(RequestError, match=message):
        engine.add_request(request_)
    assert not engine.has_work


def test_an_id_in_use_is_refused_and_the_first_goes_on() -> None:
    engine = WitnessEngine()
    first = request_of("same", prompt(0, 5), 6)
    engine.add_request(first)
    outputs = engine.step()
    with pytest.raises(RequestError, match="id same is already running"):
        engine.add_request(request_of("same", prompt(1, 5), 6))
    assert tokens_by_request(outputs + drain(engine.step, engine))["same"] == expected_tokens(first)


def test_an_abort_in_any_state_frees_everything_and_disturbs_nobody() -> None:
    """Waiting, half-way through its prompt, decoding, preempted, or finished and held."""
    for steps in range(1, 25):
        engine = WitnessEngine(num_blocks=8, max_num_seqs=3)
        requests = [request_of(name, prompt(i, 13), 8, **ENDLESS) for i, name in enumerate("abcd")]
        for request in requests:
            engine.add_request(request, hold=request.request_id == "d")
        outputs = [output for _ in range(steps) for output in engine.step()]
        for victim in ("b", "d", "unknown"):
            engine.abort(victim)
            engine.check_integrity()
        tokens = tokens_by_request(outputs + drain(engine.step, engine))
        assert [tokens["a"], tokens["c"]] == [expected_tokens(requests[0]), expected_tokens(requests[2])]
        assert num_leaked_blocks(engine) == 0


def test_a_held_sequence_keeps_its_blocks_until_it_is_released() -> None:
    engine = WitnessEngine()
    engine.add_request(request_of("held", prompt(0, 10), 1), hold=True)
    drain(engine.step, engine)
    assert num_leaked_blocks(engine) == 3
    engine.release("held")
    engine.check_integrity()
    assert num_leaked_blocks(engine) == 0
    with pytest.raises(KeyError):
        engine.sequence("held")
