"""Explanations: the figures of one decision, for people, and the last ones by request."""

import json
import math

from router.candidate import Candidate
from router.cost import Cost
from router.explanation import Explanation, ExplanationLog, Reason

CANDIDATES = [
    Candidate("a", 32, 16.0, 9.0, Cost(0.5, 0.25)),
    Candidate("b", 96, 96.0, math.inf, Cost(0.1, 2.0)),
]


def test_what_is_predicted_and_lost() -> None:
    explanation = Explanation("r", 90, CANDIDATES)
    assert (explanation.predicted_tokens, explanation.lost_tokens) == (0, 0)
    explanation.worker = "a"
    assert (explanation.predicted_tokens, explanation.lost_tokens) == (32, 64)
    explanation.worker = "b"
    assert (explanation.predicted_tokens, explanation.lost_tokens) == (89, 0), "the last token is always computed"
    explanation.worker = "somebody else"
    assert (explanation.predicted_tokens, explanation.lost_tokens) == (0, 0)


def test_the_reason_is_who_was_believed_to_hold_most() -> None:
    reasons = [Explanation("r", 90, CANDIDATES, worker=worker).reason for worker in ("a", "b", "somebody else")]
    assert reasons == [Reason.LOAD, Reason.PREFIX, Reason.LOAD]
    nothing = [Candidate(name, 0, 0.0, 0.0, Cost(0.1, 0.0)) for name in "ab"]
    assert Explanation("r", 90, nothing, worker="a").reason is Reason.COLD


def test_it_is_json_even_where_nothing_was_ever_heard_of_a_worker() -> None:
    told = json.loads(json.dumps(Explanation("r", 90, CANDIDATES, (), "a", 30).as_json(), allow_nan=False))
    assert [line["age_s"] for line in told["candidates"]] == [9.0, None]
    assert told["candidates"][0]["cost"] == {"own": 0.5, "queue": 0.25, "total": 0.75}
    assert (told["worker"], told["lost_tokens"], told["actual_tokens"]) == ("a", 64, 30)


def test_the_log_forgets_the_oldest() -> None:
    log = ExplanationLog(capacity=2)
    for request_id in ("r", "s", "r", "t"):
        log.add(Explanation(request_id, 1, []))
    assert (log.get("s"), len(log)) == (None, 2)
    assert log.get("r") is not None
