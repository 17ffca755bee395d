"""Whatever befalls workers and network, a request gives all its tokens, each once, or one error that has a cause."""

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.pool_simulation import Simulation

NUM_SCHEDULES = 200
FREQUENT = [  # what one in ten schedules has, or more
    "finished", "left", "resumed and finished", "QuarantinedError", "NoWorkerError", "TimeIsOverError", "UNREACHED",
    "DIED", "SILENT", "LEFT", "aborts", "lost aborts", "lost cancellations", "items for nobody", "slow messages",
    "imports", "whole transfers", "silent transfers", "bad frames", "KV that is gone", "expired leases",
    "lost frames", "doubled frames", "flipped frames", "cut frames", "broken streams", "truncated streams",
    "stalled streams", "failed engines", "fault crash", "fault vanish", "fault outage", "fault freeze", "fault hang",
    "fault fail", "fault drain", "fault part", "fault jump", "fault forget", "fault clear",
]  # fmt: skip
RARE = ["preemptions", "foreign tickets", "broken transfers"]


def run_all(seeds: Iterable[int]) -> Counter[str]:
    """How often what was seen."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        simulation = Simulation(seed)
        try:
            simulation.run()
        except Exception as error:
            raise AssertionError(f"{error}; replay it with: python -m tests.pool_simulation {seed}") from error
        seen.update(simulation.world.seen)
    return seen


def test_every_token_comes_once_whatever_befalls_the_pools() -> None:
    seen = run_all(range(NUM_SCHEDULES))
    assert [kind for kind in FREQUENT if not seen[kind]] == []


@pytest.mark.long
@pytest.mark.parametrize("thousand", range(10))
def test_ten_thousand_schedules(thousand: int) -> None:
    seen = run_all(range(1000 * thousand, 1000 * thousand + 1000))
    print(dict(seen.most_common()))
    assert [kind for kind in FREQUENT + RARE if not seen[kind]] == []


def test_the_same_seed_is_the_same_schedule() -> None:
    for seed in (3, 17, 250):
        records = []
        for _ in range(2):
            simulation = Simulation(seed)
            simulation.run()
            records.append((simulation.world.events, simulation.world.seen, simulation.loop.time()))
        assert records[0] == records[1]
        assert len(records[0][0]) > 10
        assert not re.search("0x[0-9a-f]{6}", "\n".join(records[0][0])), "an address is in the record"
