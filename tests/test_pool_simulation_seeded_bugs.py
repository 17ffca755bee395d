"""The pools' simulation finds bugs that are put in on purpose, each within a few hundred schedules."""

import logging
import re

import pytest

from tests.pool_simulation import Simulation
from tests.pool_simulation_bugs import POOL_BUGS, PoolBug

NUM_SCHEDULES = 400


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("bug", [pytest.param(bug, id=bug.seed.__name__) for bug in POOL_BUGS])
def test_the_bug_is_found(bug: PoolBug, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.disable()  # what is left behind by a schedule that fails
    bug.seed(monkeypatch)
    try:
        error = first_error()
    finally:
        logging.disable(logging.NOTSET)
    assert re.search(bug.noticed, error), error


def first_error() -> str:
    """What the first schedule that fails says."""
    for seed in range(NUM_SCHEDULES):
        try:
            Simulation(seed).run()
        except Exception as error:
            print(f"found by schedule {seed}: {error}")
            return str(error)
    return "nothing was noticed"
