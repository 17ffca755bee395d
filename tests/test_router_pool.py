"""Finding and scoring candidates: samples of bits and of workers, depths, and how old news is believed."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router.pool import depth_in, freshness, sample_bits
from tests.routing import make_router


@given(bits=st.integers(0, 2**200), count=st.integers(0, 20), seed=st.integers(0, 3))
def test_sampled_bits_are_bits_of_the_set(bits: int, count: int, seed: int) -> None:
    sampled = sample_bits(bits, count, random.Random(seed))
    assert sampled & ~bits == 0
    assert sampled.bit_count() <= max(count, 0)
    assert sampled or not bits or not count
    if bits.bit_count() <= count:
        assert sampled == bits


def test_every_bit_can_be_sampled() -> None:
    rng = random.Random(0)
    seen = Counter(bit for _ in range(2000) for bit in range(100) if sample_bits(2**100 - 1, 8, rng) >> bit & 1)
    assert len(seen) == 100
    assert min(seen.values()) > 80


def test_the_deepest_level_that_names_a_worker_counts() -> None:
    levels = [(9, 0b001), (4, 0b011)]
    assert [depth_in(levels, 1 << place) for place in range(3)] == [9, 4, 0]


@given(ages=st.lists(st.floats(0, 100), min_size=2, max_size=2).map(sorted))
def test_news_is_believed_less_the_older_it_is(ages: list[float]) -> None:
    young, old = map(freshness, ages)
    assert 0 <= old <= young <= 1


def test_a_sample_of_a_large_pool_has_the_size_asked_for_and_reaches_everybody() -> None:
    names = [f"worker-{n}" for n in range(50)]
    pool = make_router(workers=names)._pool
    samples = [pool.sample(16) for _ in range(500)]
    assert {len(set(sample)) for sample in samples} == {16}
    assert set().union(*samples) == set(names)
    assert make_router()._pool.sample(16) == ["a", "b", "c", "d"]
