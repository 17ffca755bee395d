"""How well times can be told apart; and, nightly, that those of another tenant's prompts cannot."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tenant_timing import auc, measure, serving_tenants

VALUES = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=20)


@given(faster=VALUES, slower=VALUES)
def test_auc_is_the_part_of_pairs_that_are_in_order(faster: list[float], slower: list[float]) -> None:
    pairs = [(one < other) + 0.5 * (one == other) for one in faster for other in slower]
    assert auc(faster, slower) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.long
@pytest.mark.ray
def test_another_tenants_prompt_comes_no_sooner_than_a_strangers() -> None:
    """Of 1,000 tries the AUC of pure chance is within 0.5 ± 0.04 in 998 of 1,000 runs."""
    with serving_tenants() as port:
        times = measure(port, 1000, random.Random(1))
    assert auc(times.own, times.strange) > 0.9, "there is nothing to be told: the test would show nothing"
    assert abs(auc(times.others, times.strange) - 0.5) <= 0.05
