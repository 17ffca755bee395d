"""A worker as a choice for one request."""

from typing import NamedTuple

from router.cost import Cost


class Candidate(NamedTuple):
    """What a decision rests on.

    Attributes:
        held_tokens: leading prompt tokens that the index says the worker holds, or will hold when the prompts sent to
            it are computed.
        credited_tokens: as many of them as are believed: less where its events are old or came untrue.
        age_s: how old what the index knows of the worker is.
    """

    worker: str
    held_tokens: int
    credited_tokens: float
    age_s: float
    cost: Cost
