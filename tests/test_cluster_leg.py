"""cluster/door/leg.py: what a call to a worker is told to have been doing when."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.door.failures import Loss
from cluster.door.leg import Leg
from workers.pools.kv_handoff import Prefilled
from workers.request import Beat, RequestOutput, WorkerTimes

Seconds = st.floats(0, 100, allow_nan=False)


def driven(work: str, times: WorkerTimes | None, moments: list[float], num_items: int) -> Leg:
    """A leg that begins, is reached, has its first output and ends at these moments, as far as it gets that far."""
    clock = itertools.chain(moments[: 1 + num_items], itertools.repeat(moments[-1]))
    leg = Leg(0, lambda: next(clock))
    leg.work = work
    first = (
        Prefilled("r", "", b"", 1, 0, 5, None, times=times)
        if work == "prefill"
        else RequestOutput("r", (5,), 0, times=times)
    )
    for item in [Beat("here:1", "w"), first][:num_items]:
        leg.take(item)
    leg.end()
    return leg


def test_a_prefill_waits_and_computes() -> None:
    leg = driven("prefill", WorkerTimes(0.5, 2.0), [10.0, 11.0, 14.0, 14.0], 2)
    assert list(leg.phases()) == [("route", 10, 11), ("queue", 11, 11.5), ("prefill", 11.5, 13.5)]
    assert leg.worker == "w"


def test_a_decode_fetches_first_and_generates_to_the_end() -> None:
    leg = driven("decode", WorkerTimes(0.5, 0.0, transfer_s=1.0), [10.0, 11.0, 13.0, 20.0], 2)
    names = [phase.name for phase in leg.phases()]
    assert names == ["route", "kv_transfer", "queue", "decode"]
    assert list(leg.phases())[-1] == ("decode", 12.5, 20)


def test_a_worker_that_does_both_computes_the_prompt_too() -> None:
    leg = driven("decode", WorkerTimes(0.0, 3.0), [0.0, 1.0, 5.0, 9.0], 2)
    assert [phase.name for phase in leg.phases()] == ["route", "queue", "prefill", "decode"]


@pytest.mark.parametrize(("num_items", "names"), [(0, ["route"]), (1, ["route", "decode"])])
def test_a_leg_that_is_lost_early(num_items: int, names: list[str]) -> None:
    leg = driven("decode", None, [0.0, 1.0, 9.0], num_items)
    leg.end(Loss.DIED)
    assert [phase.name for phase in leg.phases()] == names
    assert (leg.loss, leg.ended_s) == (Loss.DIED, 9.0), "it ended when its stream did"


@given(
    st.sampled_from(["prefill", "decode"]),
    st.none() | st.builds(WorkerTimes, Seconds, Seconds, st.none() | Seconds),
    st.lists(Seconds, min_size=4, max_size=4).map(sorted),
    st.integers(0, 2),
)
def test_phases_follow_each_other_within_the_leg_whatever_a_worker_says(
    work: str, times: WorkerTimes | None, moments: list[float], num_items: int
) -> None:
    leg = driven(work, times, moments, num_items)
    phases = list(leg.phases())
    assert phases[0].name == "route"
    assert phases[0].began_s == leg.began_s
    assert all(phase.began_s <= phase.ended_s <= (leg.ended_s or 0) for phase in phases)
    assert all(one.ended_s == next_one.began_s for one, next_one in itertools.pairwise(phases))
    if work == "decode":
        assert phases[-1].ended_s == leg.ended_s
