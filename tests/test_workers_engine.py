"""Whatever happens around a request, its tokens are those of a model that has no cache at all."""

import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.engine_driver import BASES, LENGTHS, MAX_TOKENS, EngineDriver, random_schedule
from tests.witness_runner import VOCAB_SIZE

STEPS_OF_A_SEED = 1000
TEXTS = st.builds(
    lambda base, length, tail: base[:length] + tail,
    st.sampled_from(BASES),
    st.sampled_from(LENGTHS),
    st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=3),
)


class EngineMachine(RuleBasedStateMachine):
    """Requests with shared prefixes and several completions in a pool too small for them."""

    def __init__(self, seen: Counter[str], ahead: bool) -> None:
        super().__init__()
        self.seen = seen
        self.ahead = ahead
        self.driver = EngineDriver()

    @initialize(block_size=st.sampled_from([1, 3, 4]), budget=st.sampled_from([4, 7, 64]))
    def start(self, block_size: int, budget: int) -> None:
        self.driver = EngineDriver(block_size, budget, ahead=self.ahead)

    @rule(
        text=TEXTS,
        max_tokens=st.sampled_from(MAX_TOKENS),
        n=st.integers(1, 3),
        eos=st.booleans(),
        hold=st.booleans(),
        min_tokens=st.sampled_from([0, 5]),
        penalty=st.sampled_from([0.0, 1.0]),
    )
    def add(
        self, text: list[int], max_tokens: int, n: int, eos: bool, hold: bool, min_tokens: int, penalty: float
    ) -> None:
        self.driver.add(
            text,
            max_tokens,
            n,
            ignore_eos=not eos,
            hold=hold,
            min_tokens=min_tokens,
            presence_penalty=penalty,
        )

    @precondition(lambda self: self.driver.last_turn)
    @rule(text=TEXTS, max_tokens=st.sampled_from(MAX_TOKENS), n=st.integers(1, 3))
    def add_next_turn(self, text: list[int], max_tokens: int, n: int) -> None:
        self.driver.add_next_turn(text[:3], max_tokens, n)

    @rule(text=TEXTS, max_tokens=st.sampled_from(MAX_TOKENS), num_good=st.integers(0, 9))
    def add_prefilled(self, text: list[int], max_tokens: int, num_good: int) -> None:
        self.driver.add_prefilled(text, max_tokens, num_good)

    @rule(times=st.integers(1, 8))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.driver.step()

    @rule()
    def preempt(self) -> None:
        self.driver.preempt()
        self.driver.check()

    @rule(num_blocks=st.integers(1, 4))
    def evict(self, num_blocks: int) -> None:
        self.driver.evict(num_blocks)
        self.driver.check()

    @precondition(lambda self: self.driver.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.driver.abort(data.draw(st.sampled_from(self.driver.live)))
        self.driver.check()

    @rule()
    def release_held(self) -> None:
        self.driver.release_held()
        self.driver.check()

    def teardown(self) -> None:
        self.driver.drain()
        self.seen += self.driver.seen


AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["plain", "ahead"])
EVENTS = ("copies", "preemptions", "evictions", "imports", "aborts")
EVENTS_AHEAD = ("fed", "preemptions in flight", "ends in flight", "waits")


@AHEAD
def test_any_schedule_gives_the_tokens_of_a_model_without_a_cache(ahead: bool) -> None:
    """Five thousand engine steps at least, with a full check after each; the counts keep the test from shrinking."""
    seen: Counter[str] = Counter()
    run_state_machine_as_test(
        lambda: EngineMachine(seen, ahead),  # type: ignore[arg-type]  # a factory will do
        settings=settings(
            max_examples=250,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
    assert seen["steps"] >= 5000
    assert min(seen[event] for event in (*EVENTS, *(EVENTS_AHEAD if ahead else ()))) >= 50, seen


@AHEAD
@pytest.mark.parametrize("seed", range(4))
def test_a_schedule_drawn_from_a_seed(seed: int, ahead: bool) -> None:
    assert random_schedule(seed, STEPS_OF_A_SEED, ahead=ahead)["steps"] >= STEPS_OF_A_SEED


@AHEAD
@pytest.mark.long
def test_a_million_steps(capsys: pytest.CaptureFixture[str], ahead: bool) -> None:
    """A thousand seeds of a thousand steps, a full check after each step; a failure names its seed."""
    num_steps, begin_s = 0, time.monotonic()
    for seed in range(1000):
        try:
            num_steps += random_schedule(seed, STEPS_OF_A_SEED, ahead=ahead)["steps"]
        except AssertionError as error:
            raise AssertionError(f"random_schedule({seed}, {STEPS_OF_A_SEED}, {ahead=}): {error}") from error
        if seed % 100 == 99:
            with capsys.disabled():
                print(f"\n{num_steps} steps in {time.monotonic() - begin_s:.0f} s", end="", flush=True)
    assert num_steps >= 1_000_000
