"""Why a request went where it went: what was known of each candidate, what it would have cost, what was lost."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from router.candidate import Candidate

Json = dict[str, object]


class Reason(StrEnum):
    """What a decision comes down to, as far as its policy looks.

    PREFIX: nobody is believed to hold more of the prompt. LOAD: somebody is, and has too much to do or was lost.
    COLD: nobody is believed to hold any of it.
    """

    PREFIX = "prefix"
    LOAD = "load"
    COLD = "cold"


@dataclass(slots=True)
class Explanation:
    """One decision, and later what became of it.

    Attributes:
        block_hashes: of the prompt's full blocks.
        candidates: those that were compared, the first choice first.
        worker: where the request went at last; None for a dry run, and where the pool has no worker.
        actual_tokens: leading prompt tokens that the worker then found in its cache; None until it has said so.
    """

    request_id: str
    num_tokens: int
    candidates: Sequence[Candidate]
    block_hashes: Sequence[int] = ()
    worker: str | None = None
    actual_tokens: int | None = None

    @property
    def predicted_tokens(self) -> int:
        """Tokens that the worker it went to was believed to hold; never the last one, which is always computed."""
        held = [candidate.held_tokens for candidate in self.candidates if candidate.worker == self.worker]
        return min(held[0], self.num_tokens - 1) if held else 0

    @property
    def lost_tokens(self) -> int:
        """Tokens that somebody else holds beyond what the worker it went to does."""
        best = max((candidate.held_tokens for candidate in self.candidates), default=0)
        chosen = [candidate.held_tokens for candidate in self.candidates if candidate.worker == self.worker]
        return best - chosen[0] if chosen else 0

    @property
    def reason(self) -> Reason:
        """Why it went to that worker."""
        held = {candidate.worker: candidate.held_tokens for candidate in self.candidates}
        best = max(held.values(), default=0)
        if not best:
            return Reason.COLD
        return Reason.PREFIX if self.worker is not None and held.get(self.worker) == best else Reason.LOAD

    def as_json(self) -> Json:
        """For people. Names hashes and sizes, never the prompt."""
        return {
            "request_id": self.request_id,
            "prompt_tokens": self.num_tokens,
            "worker": self.worker,
            "predicted_tokens": self.predicted_tokens,
            "actual_tokens": self.actual_tokens,
            "lost_tokens": self.lost_tokens,
            "candidates": [candidate_json(candidate) for candidate in self.candidates],
        }


def candidate_json(candidate: Candidate) -> Json:
    """One line of an explanation. An age that is infinite (nothing was ever heard) is null."""
    return {
        "worker": candidate.worker,
        "held_tokens": candidate.held_tokens,
        "credited_tokens": round(candidate.credited_tokens, 1),
        "age_s": None if candidate.age_s == float("inf") else round(candidate.age_s, 3),
        "cost": {
            "own": round(candidate.cost.own, 6),
            "queue": round(candidate.cost.queue, 6),
            "total": round(candidate.cost.total, 6),
        },
    }


class ExplanationLog:
    """The explanations of the last requests, by request."""

    def __init__(self, capacity: int = 1000) -> None:
        self._capacity = capacity
        self._of: OrderedDict[str, Explanation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def add(self, explanation: Explanation) -> None:
        """Keep one; the oldest beyond the capacity is forgotten."""
        self._of[explanation.request_id] = explanation
        self._of.move_to_end(explanation.request_id)
        if len(self._of) > self._capacity:
            self._of.popitem(last=False)

    def get(self, request_id: str) -> Explanation | None:
        """A request's explanation, if it is among the last."""
        return self._of.get(request_id)
