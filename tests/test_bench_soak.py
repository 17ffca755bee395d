"""What a soak makes of the replicas it has looked at, and of the answers under overload."""

from bench.faults.client import Heard
from bench.soak.__main__ import new_tasks
from bench.soak.aborts import growth, held
from bench.soak.overload import summary


def look(pool: str, fds: int, **more: int) -> dict[str, object]:
    return {"pool": pool, "fds": fds, "tasks": 3, "rss_bytes": 100} | more


def test_what_is_held_is_the_sum_of_all_replicas() -> None:
    replicas = [look("ingress", 1), look("decode", 1, leaked_blocks=2, running=1), look("prefill", 1, shelved=4)]
    assert held(replicas) == {"running": 1, "unfinished": 0, "leaked_blocks": 2, "shelved": 4}


def test_growth_is_told_by_pool() -> None:
    grown = growth([look("decode", 5), look("decode", 6), look("ingress", 1)], [look("decode", 9), look("ingress", 1)])
    assert grown["decode"]["fds"] == [11, 9]
    assert grown["ingress"] == {"fds": [1, 1], "tasks": [3, 3], "rss_bytes": [100, 100]}


def test_new_tasks_are_those_that_are_more_than_before() -> None:
    assert new_tasks({"a": ["x", "y"]}, {"a": ["x", "x", "y"], "b": ["z"]}) == {"a": ["x"], "b": ["z"]}


def test_goodput_counts_whole_answers_that_came_in_time() -> None:
    whole = [Heard(0.0, status=200, end_s=1.0), Heard(0.0, status=200, end_s=3.0)]
    refused = [Heard(0.0, status=429, error="HTTP 429: ", retry_after=after, end_s=0.25) for after in ("1", None)]
    broken = [Heard(0.0, status=200, error="the connection was cut", cut=True)]
    figures = summary(whole + refused + broken, end_s=2.0, seconds=2.0, peak=1.0)
    assert (figures["answered"], figures["refused_429"], figures["failed"]) == (2, 2, 1)
    assert figures["without_retry_after"] == 1
    assert (figures["goodput_per_s"], figures["goodput_of_peak"], figures["refusal_p99_s"]) == (0.5, 0.5, 0.25)
