"""Metrics that go nowhere but into a test."""

from collections import defaultdict

from cluster.telemetry.metric_names import Kind, Metric


class FakeSink:
    """Keeps what Ray's exporter would.

    Attributes:
        values: totals of counters and last values of gauges, by name, and by label where there is one ("name stop").
        observed: what was counted in histograms, by name.
    """

    def __init__(self) -> None:
        self.values: defaultdict[str, float] = defaultdict(float)
        self.observed: defaultdict[str, list[float]] = defaultdict(list)

    def record(self, metric: Metric, value: float, label: str = "") -> None:
        assert bool(label) == bool(metric.label), f"{metric.name} has another label"
        name = f"{metric.name} {label}" if label else metric.name
        if metric.kind is Kind.HISTOGRAM:
            self.observed[name].append(value)
        elif metric.kind is Kind.GAUGE:
            self.values[name] = value
        else:
            assert value >= 0, f"{name} is a counter"
            self.values[name] += value
