"""What a router needs to know of a request."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """A prompt to place.

    Attributes:
        request_id: unique among the requests in flight.
        block_hashes: chained hashes of the prompt's full blocks.
        num_tokens: the prompt's length, at least 1.
        session: what the client calls its conversation; None where it does not say.
        lost: ids of earlier attempts at it, whose workers were lost; others come first.
    """

    request_id: str
    block_hashes: Sequence[int]
    num_tokens: int
    session: str | None = None
    lost: Sequence[str] = ()
