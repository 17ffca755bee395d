"""Figures of a run: counts, rates, percentiles, goodput, and how much of what could be cached was."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cluster.loadtest.heard import Heard
from cluster.loadtest.settings import Settings

Json = dict[str, Any]
PERCENTS = (50, 90, 99)
CURVE_PERCENTS = range(0, 101, 2)


def figures(heard: Sequence[Heard], settings: Settings) -> Json:
    """Of all these requests. Times are of answers that came whole; those that clients left are counted and no more."""
    by_outcome = Counter(one.outcome for one in heard)
    whole = [one for one in heard if one.outcome == "answered"]
    lasted_s = duration_s(heard)
    good = sum(is_good(one, settings) for one in whole)
    output = sum(one.output_tokens for one in whole)
    return {
        "requests": len(heard),
        "answered": by_outcome["answered"],
        "failed": by_outcome["failed"],
        "left": by_outcome["left"],
        "errors": dict(Counter(one.error for one in heard if one.error).most_common()),
        "lasted_s": round(lasted_s, 3),
        "answers_per_s": ratio(len(whole), lasted_s),
        "output_tokens_per_s": ratio(output, lasted_s),
        "goodput_per_s": ratio(good, lasted_s),
        "goodput_share": ratio(good, len(heard) - by_outcome["left"]),
        "prompt_tokens": sum(one.prompt_tokens for one in whole),
        "output_tokens": output,
        **cached(whole),
        "ttft_ms": percentiles(one.ttft_ms for one in whole),
        "itl_ms": percentiles(itl for one in whole if (itl := one.itl_ms) is not None),
        "e2e_ms": percentiles(one.e2e_ms for one in whole),
        "gap_ms": percentiles(gap for one in whole for gap in one.gaps_ms),
    }


def is_good(heard: Heard, settings: Settings) -> bool:
    """Whether an answer keeps to the limits that are given; one token has no further ones to be late."""
    ttft, itl = settings.slo_ttft_ms, settings.slo_itl_ms
    return (ttft is None or heard.ttft_ms <= ttft) and (itl is None or (heard.itl_ms or 0.0) <= itl)


def cached(whole: Sequence[Heard]) -> Json:
    """Tokens of prompts that were not computed again, as a share of all and of what the profile made possible.

    What was possible is known by characters; the server's tokens are divided as those are. More than 1 of it means that
    the server knew the prompts from before the run.
    """
    tokens = sum(one.cached_tokens for one in whole)
    prompt = sum(one.prompt_tokens for one in whole)
    possible = sum(one.prompt_tokens * one.shared_share for one in whole)
    return {
        "cached_tokens": tokens,
        "cached_share": ratio(tokens, prompt),
        "possible_cached_share": ratio(possible, prompt),
        "cached_share_of_possible": ratio(tokens, possible),
    }


def duration_s(heard: Sequence[Heard]) -> float:
    """From the first request to the last end."""
    return max(one.end_s for one in heard) - min(one.sent_s for one in heard) if heard else 0.0


def ratio(part: float, whole: float) -> float | None:
    """None of nothing."""
    return round(part / whole, 4) if whole else None


def percentiles(values: Iterable[float]) -> Json:
    """With mean and maximum; empty of nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    named = {f"p{percent}": round(percentile(ordered, percent), 3) for percent in PERCENTS}
    return named | {"mean": round(sum(ordered) / len(ordered), 3), "max": round(ordered[-1], 3)}


def curve_ms(values: Iterable[float]) -> list[float]:
    """Every second percentile, from the least value to the greatest; empty of nothing."""
    ordered = sorted(values)
    return [round(percentile(ordered, percent), 3) for percent in CURVE_PERCENTS] if ordered else []


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest of the ordered values that so many per cent of them do not exceed."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
