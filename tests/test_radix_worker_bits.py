"""A bit for each worker: lowest free ones, given back, spelled out again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radix.worker_bits import MAX_REMEMBERED, WorkerBits


def test_bits_are_given_lowest_first_and_taken_back() -> None:
    bits = WorkerBits()
    assert [bits.assign(name) for name in ("a", "b", "a", "c")] == [1, 2, 1, 4]
    assert bits.names(0b110) == ("b", "c")
    bits.release("b")
    assert (bits.get("b"), bits.get("c"), bits.names(0b111)) == (0, 4, ("a", "c"))
    assert [bits.assign("d"), bits.assign("e")] == [2, 8]
    assert (bits.names(0b1111), len(bits)) == (("a", "d", "c", "e"), 4)
    with pytest.raises(KeyError):
        bits.release("b")


def test_bits_of_nobody_have_no_name() -> None:
    bits = WorkerBits()
    bits.assign("a")
    assert bits.names(0b11) == ("a",)
    bits.assign("b")
    assert bits.names(0b11) == ("a", "b")
    bits.release("b")
    assert (bits.names(0), bits.names(-1), bits.names(0b1010)) == ((), ("a",), ())


def test_what_is_remembered_is_bounded_and_right() -> None:
    bits = WorkerBits()
    names = [f"w{number}" for number in range(12)]
    for name in names:
        bits.assign(name)
    for _ in range(2):
        for mask in range(1 << 12):
            assert len(bits.names(mask)) == mask.bit_count()
            assert len(bits._names_of) <= MAX_REMEMBERED


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=30))
def test_every_worker_has_a_bit_of_its_own(changes: list[tuple[str, bool]]) -> None:
    bits, alive = WorkerBits(), set[str]()
    for name, comes in changes:
        if comes:
            bits.assign(name)
            alive.add(name)
        elif name in alive:
            bits.release(name)
            alive.remove(name)
        masks = [bits.get(worker) for worker in sorted(alive)]
        assert all(mask.bit_count() == 1 for mask in masks)
        assert sum(masks) == sum(set(masks))
        assert set(bits.names(sum(masks))) == alive
