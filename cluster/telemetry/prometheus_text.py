"""Metrics read back from Prometheus' text format, as far as Ray's exporter writes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Series = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Samples:
    """What was scraped at one moment: labels and value of each series, by name."""

    series: Mapping[str, list[Series]]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series that have these labels; 0 where there are none."""
        return sum(value for own, value in self.series.get(name, ()) if labels.items() <= own.items())

    def buckets(self, name: str) -> dict[float, float]:
        """A histogram's counts at or below each bound, over all its series. The bounds ascend."""
        counts: dict[float, float] = {}
        for labels, value in self.series.get(f"{name}_bucket", ()):
            bound = float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + value
        return dict(sorted(counts.items()))


def parse(text: str) -> Samples:
    """Read a scrape. Comments, and what is no sample, are passed over."""
    series: dict[str, list[Series]] = {}
    for name, labels, value in SAMPLE.findall(text):
        series.setdefault(name, []).append((dict(LABEL.findall(labels)), float(value)))
    return Samples(series)


def quantile(now: Samples, then: Samples, name: str, part: float) -> float | None:
    """A quantile of what a histogram has counted in between, from within its bucket; None where that is nothing."""
    before = then.buckets(name)
    counts = {bound: count - before.get(bound, 0.0) for bound, count in now.buckets(name).items()}
    wanted = part * max(counts.values(), default=0.0)
    if wanted <= 0:
        return None
    lower, below = 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted:
            return lower if bound == inf else lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = bound, count
    return lower
