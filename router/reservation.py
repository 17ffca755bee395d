"""A request's charge to a worker."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reservation:
    """Work that a worker is to do for one request.

    Attributes:
        num_tokens: prompt tokens it has to compute; 0 where it computes none.
        num_blocks: KV blocks the request takes while it lives.
    """

    request_id: str
    num_tokens: int
    num_blocks: int
