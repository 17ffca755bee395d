"""A report for people."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
COUNTS = ("requests", "answered", "failed", "left", "prompt_tokens", "output_tokens", "cached_tokens")
RATES = ("lasted_s", "answers_per_s", "output_tokens_per_s", "goodput_per_s")
SHARES = ("goodput_share", "cached_share", "possible_cached_share", "cached_share_of_possible")
TIMES = ("ttft_ms", "itl_ms", "e2e_ms", "gap_ms")


def table(report: Json) -> str:
    """A line for each figure, a column for the total and for each group."""
    columns = {"total": report["total"], **report["groups"]}
    rows = [["", *columns], *(list(row) for row in figure_rows(list(columns.values())))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" ".join([f"{row[0]:{widths[0]}}", *align(row[1:], widths[1:])]) for row in rows]
    return "\n".join([headline(report), *lines, *trouble(report)])


def headline(report: Json) -> str:
    """Which run this was."""
    settings, client = report["settings"], report["client"]
    return (
        f"{settings['profile']} at {settings['url']}, seed {settings['seed']}; "
        f"{client['cores']} cores, load average {client['load_1_min']}"
    )


def figure_rows(columns: list[Json]) -> Iterator[tuple[str, ...]]:
    """The name of each figure, and it in each column."""
    for name in COUNTS:
        yield name, *(str(column[name]) for column in columns)
    for name in RATES:
        yield name, *(formatted(column[name], ".2f") for column in columns)
    for name in SHARES:
        yield name, *(formatted(column[name], ".3f") for column in columns)
    for name in TIMES:
        for percent in ("p50", "p90", "p99"):
            yield f"{name} {percent}", *(formatted(column[name].get(percent), ".1f") for column in columns)


def formatted(value: float | None, form: str) -> str:
    """A figure, or that there is none."""
    return "-" if value is None else format(value, form)


def align(entries: list[str], widths: list[int]) -> list[str]:
    """Numbers to the right."""
    return [f"{entry:>{width}}" for entry, width in zip(entries, widths, strict=True)]


def trouble(report: Json) -> Iterator[str]:
    """Errors by kind, and what else throws doubt on the figures."""
    for kind, count in report["total"]["errors"].items():
        yield f"{count} x {kind}: {report['error_details'][kind]}"
    if (of_possible := report["total"]["cached_share_of_possible"]) is not None and of_possible > 1.1:
        yield "more was cached than this run made possible: the server knows these prompts, take another --seed"
    if report["late_ms"] and report["late_ms"]["p99"] > 100:
        yield f"the client sent late, by {report['late_ms']['p99']:.0f} ms (p99): its own machine is too busy"
