"""What a run comes to: answers held against what they should have been, and how long streams stood still."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.faults.compare import Difference, by_count, difference, gap_s, percentile
from bench.faults.inject import Fault
from bench.faults.load import Answer
from workers.request import ATTEMPT_MARK

Json = dict[str, Any]
Pieces = Callable[[str], Sequence[str]]
RECOVERIES = {"crash": ("SIGKILL",), "hang": ("SIGSTOP",), "term": ("SIGTERM",)}
EARLY_S = 0.1  # a look at a replica before it is struck: a stream may be cut as early


def report(answers: Sequence[Answer], faults: Sequence[Fault], leaks: Json, pieces: Pieces) -> Json:
    """All figures of a run."""
    lost = [answer for answer in answers if lost_with_its_ingress(answer, faults)]
    failed = [answer for answer in answers if answer.heard.error and answer not in lost]
    differences = {id(answer): differs(answer, pieces) for answer in answers if answer not in failed}
    total = sum(differences.values(), Difference())
    return {
        "requests": len(answers),
        "kills": len(faults),
        "failed": len(failed),
        "lost_tokens": total.lost,
        "duplicated_tokens": total.duplicated,
        "changed_tokens": total.changed,
        **recoveries(answers, faults),
        **leaks,
        "lost_connections": len(lost),
        "lost_before_first_byte": sum(not answer.heard.chunks for answer in lost),
        "failure_bound_95": 3 / len(answers) if answers and not failed else None,
        "faults": dict(sorted(Counter(fault.kind for fault in faults).items())),
        "whole_again_p50_s": rounded(percentile([fault.whole_s - fault.at_s for fault in faults], 0.5)),
        "reasons": dict(Counter(answer.heard.error for answer in failed)),
        "failures": [failure(answer) for answer in failed][:5],
        "examples": [example(answer) for answer in answers if differences.get(id(answer))][:5],
    }


def lost_with_its_ingress(answer: Answer, faults: Iterable[Fault]) -> bool:
    """Whether a connection was cut, or found nobody, while an ingress replica was away: no other fault explains it."""
    heard = answer.heard
    return heard.cut and any(
        "ingress" in fault.pools and heard.sent_s < fault.whole_s and heard.end_s > fault.at_s - EARLY_S
        for fault in faults
    )


def differs(answer: Answer, pieces: Pieces) -> Difference:
    """Of an answer that ended, or of the beginning of one that was cut."""
    case, heard = answer.case, answer.heard
    if heard.cut:
        expected = case.text[: len(heard.text)]
        return Difference() if heard.text == expected else difference(pieces(heard.text), pieces(expected))
    if heard.text != case.text:
        return difference(pieces(heard.text), pieces(case.text))
    if heard.finish_reason != case.finish_reason:
        return Difference(changed=1)
    return by_count(heard.num_tokens, case.num_tokens)


def recoveries(answers: Iterable[Answer], faults: Iterable[Fault]) -> Json:
    """How long the streams that were at a struck worker stood still, by what struck it. Ingress replicas left out:
    nobody can go on with their connections."""
    of_request = {answer.heard.request_id: answer.heard for answer in answers if answer.heard.request_id}
    gaps: dict[str, list[float]] = {name: [] for name in RECOVERIES}
    for fault in faults:
        (name,) = (name for name, signals in RECOVERIES.items() if fault.kind.startswith(signals))
        for request_id in {one.partition(ATTEMPT_MARK)[0] for one in fault.ids}:
            if (heard := of_request.get(request_id)) is not None:
                gap = gap_s([time_s for time_s, _ in heard.chunks], fault.at_s)
                gaps[name] += [gap] if gap is not None else []
    return spread("", [gap for found in gaps.values() for gap in found]) | {
        key: value for name, found in gaps.items() for key, value in spread(f"{name}_", found).items()
    }


def spread(name: str, gaps_s: Sequence[float]) -> Json:
    """Two percentiles and of how many."""
    return {
        f"recovery_{name}p50_s": rounded(percentile(gaps_s, 0.5)),
        f"recovery_{name}p99_s": rounded(percentile(gaps_s, 0.99)),
        f"recovery_{name}streams": len(gaps_s),
    }


def failure(answer: Answer) -> Json:
    """How far it came, and after how long it ended."""
    heard = answer.heard
    lasted_s = rounded(heard.end_s - heard.sent_s)
    return {"error": heard.error, "status": heard.status, "pieces": len(heard.chunks), "lasted_s": lasted_s}


def example(answer: Answer) -> Json:
    """Enough to ask again."""
    return {"body": answer.case.body, "expected": answer.case.text, "told": answer.heard.text}


def rounded(value: float | None) -> float | None:
    """To a millisecond."""
    return None if value is None else round(value, 3)
