"""A router's metrics: what it decided, what it believed and what was true, and how old its index is."""

from collections.abc import Iterable

from cluster.telemetry import metric_names as names
from cluster.telemetry.metric_sink import Sink, Totals
from router.router import Router


class RouterMetrics:
    """Of one pool's router in one front door."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._totals = Totals(sink)

    def record(self, router: Router, ages_s: Iterable[float]) -> None:
        """Where it stands now.

        Args:
            ages_s: of what the index knows of each worker. One that was never heard makes the lag infinite.
        """
        for reason, number in router.num_decisions.items():
            self._totals.tell(names.ROUTER_DECISIONS, number, reason)
        self._totals.tell(names.EXPECTED_HIT_TOKENS, router.counts.predicted_tokens)
        self._totals.tell(names.ACTUAL_HIT_TOKENS, router.counts.actual_tokens)
        self._sink.record(names.INDEX_LAG, max(ages_s, default=0.0))
