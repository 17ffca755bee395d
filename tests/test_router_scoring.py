"""The cost of a choice: what is held lowers it, what waits raises it, and the weights trade one for the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scoring import DECODE_SCORING, PREFILL_SCORING, Scoring

tokens = st.integers(0, 10**6)
scorings = st.sampled_from([PREFILL_SCORING, DECODE_SCORING, Scoring(0.5, 2.0)])


@pytest.mark.parametrize(
    ("scoring", "cost"),
    [(Scoring(), 100 - 64 + 30), (Scoring(0.5, 1.0), 100 - 32 + 30), (Scoring(1.0, 2.0), 100 - 64 + 60)],
)
def test_the_cost_is_tokens_of_work(scoring: Scoring, cost: float) -> None:
    assert scoring.cost(num_prompt_tokens=100, num_held_tokens=64, num_outstanding_tokens=30) == cost


@given(scoring=scorings, prompt=tokens, held=tokens, waiting=tokens)
def test_holding_more_never_costs_more_and_waiting_longer_never_less(
    scoring: Scoring, prompt: int, held: int, waiting: int
) -> None:
    cost = scoring.cost(prompt, held, waiting)
    assert scoring.cost(prompt, held + 16, waiting) < cost
    assert scoring.cost(prompt, held, waiting + 16) > cost


def test_a_prefill_pool_waits_for_a_prefix_as_long_as_computing_it_would_take() -> None:
    computed_here = PREFILL_SCORING.cost(1000, 0, 0)
    assert PREFILL_SCORING.cost(1000, 800, 799) < computed_here < PREFILL_SCORING.cost(1000, 800, 801)


def test_a_decode_pool_waits_a_quarter_as_long() -> None:
    stored_here = DECODE_SCORING.cost(1000, 0, 0)
    assert DECODE_SCORING.cost(1000, 800, 199) < stored_here < DECODE_SCORING.cost(1000, 800, 201)
