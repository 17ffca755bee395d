"""An answer held against the undisturbed one for the same request: which tokens are missing, twice there, or others."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True)
class Difference:
    """Numbers of tokens; all zero where the answers are the same."""

    lost: int = 0
    duplicated: int = 0
    changed: int = 0

    def __bool__(self) -> bool:
        return self != Difference()

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(self.lost + other.lost, self.duplicated + other.duplicated, self.changed + other.changed)


def difference(told: Sequence[str], expected: Sequence[str]) -> Difference:
    """Of two answers as tokens. What is there and should not be is a duplicate where it repeats what stands beside it;
    what stands in another's place is changed."""
    total = Difference()
    matcher = SequenceMatcher(None, expected, told, autojunk=False)
    for operation, begin, end, told_begin, told_end in matcher.get_opcodes():
        missing, extra = end - begin, told_end - told_begin
        if operation == "delete":
            total += Difference(lost=missing)
        elif operation == "insert":
            repeated = repeats_neighbour(told, told_begin, told_end)
            total += Difference(duplicated=extra) if repeated else Difference(changed=extra)
        elif operation == "replace":
            total += Difference(lost=max(0, missing - extra), changed=extra)
    return total


def repeats_neighbour(told: Sequence[str], begin: int, end: int) -> bool:
    """Whether what stands there stands right before or right after as well."""
    extra, length = list(told[begin:end]), end - begin
    return extra in (list(told[max(0, begin - length) : begin]), list(told[end : end + length]))


def by_count(told: int | None, expected: int | None) -> Difference:
    """Of the numbers of tokens that usage reports, for answers whose text is the same."""
    if told is None or expected is None:
        return Difference()
    return Difference(lost=max(0, expected - told), duplicated=max(0, told - expected))


def gap_s(times_s: Sequence[float], fault_s: float) -> float | None:
    """How long a client waited for its next piece when a fault struck: from the last one before, or from the fault
    where there was none. None where no piece came after it."""
    after = [time_s for time_s in times_s if time_s > fault_s]
    before = [time_s for time_s in times_s if time_s <= fault_s]
    return min(after) - (before[-1] if before else fault_s) if after else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that this share of them does not exceed; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]
