"""The cost of sending a request to a worker, in tokens of work. Lower is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scoring:
    """How a pool weighs what a worker holds against what it has to do.

    Attributes:
        overlap_weight: what a prompt token that the worker already holds saves. 1 in a prefill pool, where it need not
            be computed; less in a decode pool, where it only need not be stored again.
        load_weight: what a token of work that waits at the worker costs.
    """

    overlap_weight: float = 1.0
    load_weight: float = 1.0

    def cost(self, num_prompt_tokens: int, num_held_tokens: int, num_outstanding_tokens: int) -> float:
        """Tokens of work until this request is through: its own that are not held, and those before it."""
        return num_prompt_tokens - self.overlap_weight * num_held_tokens + self.load_weight * num_outstanding_tokens


PREFILL_SCORING = Scoring()
DECODE_SCORING = Scoring(overlap_weight=0.25)
