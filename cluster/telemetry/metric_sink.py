"""Where metrics go, as those who have some see it. Free of Ray."""

from typing import Protocol

from cluster.telemetry.metric_names import Metric


class Sink(Protocol):
    """Where metrics go."""

    def record(self, metric: Metric, value: float, label: str = "") -> None:
        """Add to a counter, set a gauge, or count a value in a histogram.

        Args:
            label: the value of the metric's own label, where it has one.
        """


class Totals:
    """Counts that others keep, as counters: what has been added since they were last told."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._told: dict[tuple[str, str], float] = {}

    def tell(self, metric: Metric, total: float, label: str = "") -> None:
        """The count stands at `total`. Told for the first time a counter appears, at 0 too."""
        told = self._told.get((metric.name, label))
        if told is None or total > told:
            self._sink.record(metric, total - (told or 0.0), label)
            self._told[metric.name, label] = total
