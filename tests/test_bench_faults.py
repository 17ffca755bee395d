"""How answers under faults are counted: what is lost, twice there or changed, whose connection it was, and how long."""

from collections.abc import Sequence

import pytest

from bench.faults.client import Heard, take_event, take_refusal
from bench.faults.compare import Difference, by_count, difference, gap_s, percentile
from bench.faults.inject import Fault, is_whole
from bench.faults.load import Answer
from bench.faults.report import report
from bench.faults.requests import Case, bodies, stopped

NO_LEAKS = {"leaked_blocks": 0}


def case(text: str = "abcd", num_tokens: int | None = 4) -> Case:
    return Case({"max_tokens": 4}, text, "length", num_tokens)


def heard(
    text: str = "abcd", *, at_s: Sequence[float] = (1, 2, 3, 4), error: str = "", cut: bool = False, name: str = "r"
) -> Heard:
    chunks = list(zip(at_s, text, strict=False))
    return Heard(0.5, name, 200, chunks, None if error else "length", None if error else len(text), error, None, cut, 5)


def told(*answers: Heard, faults: Sequence[Fault] = ()) -> dict[str, object]:
    return report([Answer(case(), one) for one in answers], faults, NO_LEAKS, list)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("abcdef", Difference()),
        ("abcd", Difference(lost=2)),
        ("abef", Difference(lost=2)),
        ("abcdcdef", Difference(duplicated=2)),
        ("aabcdef", Difference(duplicated=1)),
        ("abcxdef", Difference(changed=1)),
        ("abcxyf", Difference(changed=2)),
        ("axf", Difference(lost=3, changed=1)),
        ("", Difference(lost=6)),
    ],
)
def test_tokens_are_lost_or_twice_there_or_others(told: str, expected: Difference) -> None:
    assert difference(told, "abcdef") == expected


def test_usage_is_compared_where_both_answers_have_one() -> None:
    assert by_count(5, 4) == Difference(duplicated=1)
    assert by_count(3, 4) == Difference(lost=1)
    assert not by_count(None, 4)


def test_a_gap_is_from_the_last_piece_before_a_fault_to_the_next_one() -> None:
    assert gap_s([1.0, 2.0, 6.0, 7.0], 2.5) == 4.0
    assert gap_s([6.0], 2.5) == 3.5
    assert gap_s([1.0, 2.0], 2.5) is None


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert percentile([], 0.5) is None


def test_recoveries_are_those_of_the_requests_that_were_there() -> None:
    slow, other = heard(at_s=(1, 2, 6, 7)), heard(name="other")
    faults = [Fault("SIGSTOP decode", 2.5, ["r#1"], ["decode"], 9.0), Fault("SIGKILL node", 1.5, ["gone"], [], 9.0)]
    figures = told(slow, other, faults=faults)
    assert figures["recovery_hang_p50_s"] == figures["recovery_p99_s"] == 4.0
    assert (figures["recovery_hang_streams"], figures["recovery_crash_streams"]) == (1, 0)


def test_a_cut_connection_is_its_ingress_replicas_and_a_failure_without_one() -> None:
    cut = heard("ab", error="the connection was cut", cut=True)
    ingress, decode = Fault("SIGKILL ingress", 2.5, [], ["ingress"], 9.0), Fault("SIGKILL decode", 2.5, [], ["decode"])
    assert told(cut, faults=[decode, ingress])["lost_connections"] == 1
    assert told(cut, faults=[decode])["failed"] == 1
    assert told(cut, faults=[Fault("SIGKILL ingress", 8.0, [], ["ingress"], 9.0)])["failed"] == 1
    refused = heard("", error="HTTP 500: no", cut=False)
    assert told(refused, faults=[ingress])["failed"] == 1


def test_what_a_cut_stream_did_say_must_be_the_answers_beginning() -> None:
    ingress = Fault("SIGKILL ingress", 2.5, [], ["ingress"], 9.0)
    wrong = told(heard("ax", error="cut", cut=True), faults=[ingress])
    assert (wrong["lost_connections"], wrong["changed_tokens"], wrong["lost_tokens"]) == (1, 1, 0)


def test_the_bound_is_that_of_a_run_without_failures() -> None:
    assert told(heard(), heard())["failure_bound_95"] == 1.5
    assert told(heard(), heard("", error="HTTP 500: no"))["failure_bound_95"] is None


def test_events_are_taken_until_the_end_mark() -> None:
    taken = Heard(0.0)
    assert not take_event(taken, '{"id": "r", "choices": [{"text": "a", "finish_reason": "stop"}], "usage": null}')
    assert not take_event(taken, '{"id": "r", "choices": [], "usage": {"completion_tokens": 3}}')
    assert take_event(taken, "[DONE]")
    assert (taken.request_id, taken.text, taken.finish_reason, taken.num_tokens) == ("r", "a", "stop", 3)
    assert take_event(taken, '{"error": {"message": "no worker"}}')
    assert taken.error == "no worker"


def test_a_refusal_without_our_error_object_is_the_proxys() -> None:
    ours, proxys = Heard(0.0, status=503), Heard(0.0, status=503)
    take_refusal(ours, '{"error": {"message": "no worker"}}')
    take_refusal(proxys, "<html>")
    assert (ours.cut, proxys.cut) == (False, True)


def test_a_cluster_is_whole_when_others_stand_in_the_lost_ones_place() -> None:
    replicas = [{"name": name, "pool": "decode", "ready": name != "c"} for name in "abc"]
    assert is_whole({"replicas": replicas, "wanted": {"decode": 2}})
    assert not is_whole({"replicas": replicas, "wanted": {"decode": 2}}, gone=["a"])
    assert not is_whole({"replicas": replicas, "wanted": {"decode": 2, "ingress": 1}})


def test_requests_differ_and_share_beginnings() -> None:
    asked = bodies(48)
    assert len({str(body) for body in asked}) == 48
    assert len({body["prompt"][:600] for body in asked}) == 8
    assert stopped(case("abcdefghi"))["stop"] == "ghi"
