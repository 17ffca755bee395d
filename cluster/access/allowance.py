"""How much of an allowance per minute is used up."""

SECONDS_PER_MINUTE = 60.0


class Meter:
    """Fills by what is taken and drains by the allowance: a leaky bucket that holds one minute's worth.

    The allowance is given with each question, so it may change at any time.
    """

    def __init__(self, now_s: float) -> None:
        self._used = 0.0
        self._at_s = now_s

    def wait_s(self, amount: float, per_minute: float, now_s: float) -> float:
        """How long to wait until so much more fits; 0 where it does, infinite where it never will."""
        if amount > per_minute:
            return float("inf")
        per_s = per_minute / SECONDS_PER_MINUTE
        self._used = max(0.0, self._used - (now_s - self._at_s) * per_s)
        self._at_s = now_s
        return max(0.0, self._used + amount - per_minute) / per_s

    def take(self, amount: float) -> None:
        """Use so much up; a negative amount is given back."""
        self._used = max(0.0, self._used + amount)
