"""What has been sent is expected for one to two lifetimes, whenever it is asked for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.expected import ExpectedPrefixes

HASHES = [11, 12, 13]


def depth(expected: ExpectedPrefixes, now_s: float) -> int:
    return max(index.match(HASHES).get("a", 0) for index in expected.indexes(now_s))


@pytest.mark.parametrize("born_s", [0.0, 5.0, 9.9, 1e9])
def test_an_entry_lives_for_one_to_two_lifetimes(born_s: float) -> None:
    expected = ExpectedPrefixes(0, lifetime_s=10.0)
    expected.insert("a", HASHES, born_s)
    assert depth(expected, born_s + 9.9) == 3
    assert depth(expected, born_s + 20.1) == 0


@given(asked_s=st.lists(st.floats(0, 40), max_size=8).map(sorted))
@settings(deadline=None)
def test_asking_in_between_changes_nothing(asked_s: list[float]) -> None:
    expected = ExpectedPrefixes(0, lifetime_s=10.0)
    expected.insert("a", HASHES, 0.0)
    for now_s in asked_s:
        assert depth(expected, now_s) == (3 if now_s < 20 else 0)


def test_entries_of_several_workers_stand_beside_each_other() -> None:
    expected = ExpectedPrefixes(0, lifetime_s=10.0)
    expected.insert("a", HASHES, 0.0)
    expected.insert("b", HASHES[:2], 12.0)
    expected.insert("b", [], 12.0)
    young, old = expected.indexes(12.0)
    assert (young.match(HASHES), old.match(HASHES)) == ({"b": 2}, {"a": 3})
