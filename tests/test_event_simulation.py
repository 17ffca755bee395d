"""After a quiet second every router's index equals what the workers hold, whatever the network and restarts did."""

import pytest

from tests.event_simulation import Simulation

NUM_SCHEDULES = 1000


@pytest.mark.parametrize("hundred", range(NUM_SCHEDULES // 100))
def test_the_indexes_equal_the_caches_after_a_quiet_second(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        try:
            Simulation(seed).run()
        except Exception as error:
            raise AssertionError(f"replay it with: python -m tests.event_simulation {seed}") from error
