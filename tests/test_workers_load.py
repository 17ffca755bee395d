"""What a worker tells the routers: what is queued, how fast it computes, how much room it has, what it found cached."""

import pytest

from tests.helpers import request_of
from tests.witness import WitnessEngine
from workers.load import REMEMBERED_PREFILLS, PrefillMeter


def test_speed_is_tokens_in_a_second_of_computing_of_late() -> None:
    meter = PrefillMeter()
    assert meter.tokens_per_s == 0
    meter.add_step(100, 0.5)
    meter.add_step(0, 0.5)
    assert meter.tokens_per_s == pytest.approx(100, rel=0.05)
    for _ in range(60):
        meter.add_step(700, 1.0)
    assert meter.tokens_per_s == pytest.approx(700, rel=0.01)


def test_the_last_prefills_are_remembered() -> None:
    meter = PrefillMeter()
    for number in range(REMEMBERED_PREFILLS + 3):
        meter.add_prefill(str(number), number)
    assert meter.prefills[0] == ("3", 3)
    assert len(meter.prefills) == REMEMBERED_PREFILLS


def test_an_engine_tells_what_waits_less_what_is_cached_and_what_is_free() -> None:
    engine = WitnessEngine(num_blocks=12, block_size=4, max_num_seqs=1, max_num_batched_tokens=8)
    prompt = list(range(1, 11))
    assert (engine.load().queued_tokens, engine.load().free_blocks, engine.load().num_running) == (0, 12, 0)
    engine.add_request(request_of("r", prompt, 1))
    assert engine.load().queued_tokens == 10
    engine.step()
    assert (engine.load().queued_tokens, engine.load().free_blocks, engine.load().num_running) == (2, 9, 1)
    assert engine.load().kv_usage == 0.25
    while engine.has_work:
        engine.step()
    assert (engine.load().queued_tokens, engine.load().free_blocks) == (0, 12), "cached blocks can be evicted"
    assert engine.load().kv_usage == 0
    engine.add_request(request_of("s", prompt, 1))
    assert engine.load().queued_tokens == 2, "two blocks of it are cached"
    assert engine.num_computed_tokens == 10
