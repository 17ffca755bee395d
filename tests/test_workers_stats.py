"""What an engine says it has done, held against what it was made to do (witness model, a clock that is set by hand)."""

from dataclasses import replace

import pytest

from tests.helpers import drain, request_of
from tests.witness import WitnessBlocks, WitnessEngine, expected_tokens
from workers.engine.sequence import KnownFrom
from workers.engine.stats import REMEMBERED_TIMES, EngineCounts
from workers.request import WorkerTimes

PROMPT = [(5 * position) % 31 + 1 for position in range(18)]  # four blocks of four and two tokens
ENDLESS = {"ignore_eos": True}
NOTHING = dict.fromkeys(KnownFrom, 0)


class ClockedEngine(WitnessEngine):
    """An engine whose clock stands still but for a second that each step takes."""

    def __init__(self, num_blocks: int = 40, *, ahead: bool = False) -> None:
        super().__init__(num_blocks, max_num_batched_tokens=64, ahead=ahead)
        self.now_s = 100.0
        self._stats._clock = lambda: self.now_s

    def run(self) -> EngineCounts:
        """To the end of all requests."""

        def step() -> list[object]:
            self.now_s += 1.0
            return list(self.step())

        drain(step, self)  # type: ignore[arg-type]
        return self.take_counts()


def test_the_first_output_says_how_it_came_to_that() -> None:
    engine, outputs = ClockedEngine(), []
    engine.add_request(request_of("a", PROMPT, 3, **ENDLESS))
    engine.now_s += 3.0
    while engine.has_work:
        engine.now_s += 1.0
        outputs += engine.step()
    assert [output.times for output in outputs] == [WorkerTimes(queue_s=4.0, prefill_s=0.0), None, None]


@pytest.mark.parametrize("ahead", [False, True])
def test_tokens_and_times_of_a_request(ahead: bool) -> None:
    engine = ClockedEngine(ahead=ahead)
    engine.add_request(request_of("a", PROMPT, 5, **ENDLESS))
    engine.now_s += 3.0
    counts = engine.run()
    assert (counts.prompt_tokens, counts.generation_tokens) == (18, 5)
    assert (counts.prefix_query_tokens, counts.prefix_hit_tokens) == (18, 0)
    assert list(counts.queue_s) == [4.0], "three before the first step, one in it"
    assert list(counts.prefill_s) == [1.0 if ahead else 0.0]
    assert list(counts.decode_s) == [4.0]
    assert engine.take_counts() == EngineCounts(), "counted once"


def test_a_prompt_that_comes_again_hits_all_its_whole_blocks() -> None:
    engine = ClockedEngine()
    for name in "ab":
        engine.add_request(request_of(name, PROMPT, 1))
        counts = engine.run()
    assert (counts.prefix_query_tokens, counts.prefix_hit_tokens, counts.prompt_tokens) == (18, 16, 18)
    assert list(counts.decode_s) == [], "one token takes no decoding"


def test_completions_of_one_prompt_count_it_once() -> None:
    engine = ClockedEngine()
    engine.add_request(request_of("a", PROMPT, 3, n=3, **ENDLESS))
    counts = engine.run()
    assert (counts.prompt_tokens, counts.generation_tokens, counts.prefix_query_tokens) == (18, 9, 18)
    assert (len(counts.queue_s), len(counts.prefill_s), len(counts.decode_s)) == (3, 3, 3)


def test_preemptions_evictions_and_what_is_computed_again() -> None:
    """Two sequences grow to six blocks each in a pool of eight; every token is computed once, but for those lost."""
    engine = ClockedEngine(num_blocks=8)
    for name, start in (("a", 1), ("b", 2)):
        engine.add_request(request_of(name, [start] * 6, 18, **ENDLESS))
    counts = engine.run()
    assert counts.num_preemptions == engine.seen["preemptions"] > 0
    assert counts.num_evicted_blocks > 0
    necessary = 2 * (6 + 18 - 1)
    assert counts.recomputed_tokens == NOTHING | {KnownFrom.PREEMPTION: engine.num_computed_tokens - necessary}
    assert (counts.generation_tokens, len(counts.queue_s)) == (36, 2), "a preempted sequence is no new one"


@pytest.mark.parametrize(("num_good", "lost"), [(5, 0), (3, 18 - 12), (0, 18)])
def test_a_prompt_computed_elsewhere_counts_as_what_is_missing_of_it(num_good: int, lost: int) -> None:
    engine = ClockedEngine()
    request = request_of("a", PROMPT, 4, **ENDLESS)
    engine.add_prefilled(request, expected_tokens(request)[0], WitnessBlocks(PROMPT, 4, num_good))
    counts = engine.run()
    assert counts.recomputed_tokens == NOTHING | {KnownFrom.HANDOFF: lost}
    assert (counts.prompt_tokens, counts.generation_tokens) == (0, 3), "the prefill worker counted the prompt"
    assert (counts.prefix_query_tokens, counts.prefix_hit_tokens) == (19, 0), "what was handed over is no hit"
    assert (len(counts.queue_s), len(counts.prefill_s), len(counts.decode_s)) == (1, 0, 1)


def test_an_attempt_that_goes_on_counts_what_the_one_before_had_computed() -> None:
    engine = ClockedEngine()
    request = request_of("a", PROMPT, 6, **ENDLESS)
    engine.add_request(replace(request, output_token_ids=tuple(expected_tokens(request)[:3])))
    counts = engine.run()
    assert counts.recomputed_tokens == NOTHING | {KnownFrom.RESUME: 18 + 2}, "the last token had no KV yet"
    assert (counts.prompt_tokens, counts.generation_tokens) == (0, 3)


def test_a_request_that_is_dropped_has_decoded_until_then() -> None:
    engine = ClockedEngine()
    for name in ("decoding", "waiting"):
        engine.add_request(request_of(name, PROMPT, 50, **ENDLESS))
        if name == "decoding":
            engine.step()
            engine.now_s += 7.0
    engine.abort("waiting")
    engine.abort("decoding")
    counts = engine.take_counts()
    assert (list(counts.queue_s), list(counts.decode_s)) == ([0.0], [7.0])


def test_the_load_tells_who_runs_and_who_waits() -> None:
    engine = ClockedEngine(num_blocks=6)
    for name, start in (("a", 1), ("b", 2)):
        engine.add_request(request_of(name, [start] * 18, 3))
    engine.step()
    assert (engine.load().num_running, engine.load().num_waiting) == (1, 1)


def test_times_that_nobody_takes_do_not_pile_up() -> None:
    counts = EngineCounts()
    counts.queue_s.extend(range(2 * REMEMBERED_TIMES))
    assert len(counts.queue_s) == REMEMBERED_TIMES
