"""A worker's metrics, from what its engine and its service have counted."""

from cluster.telemetry import metric_names as names
from cluster.telemetry.metric_sink import Sink
from workers.engine.sequence import KnownFrom
from workers.engine.stats import EngineCounts
from workers.load import WorkerLoad
from workers.pools.handoff_counts import HandoffCounts


class WorkerMetrics:
    """Of one worker. Its counters appear at once, at 0."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._count(EngineCounts())

    def record(self, load: WorkerLoad, counts: EngineCounts) -> None:
        """Its load now, and what its engine has counted since the last time."""
        self._sink.record(names.NUM_RUNNING, load.num_running)
        self._sink.record(names.NUM_WAITING, load.num_waiting)
        self._sink.record(names.KV_USAGE, load.kv_usage)
        self._sink.record(names.QUEUED_TOKENS, load.queued_tokens)
        self._count(counts)
        for metric, seconds in (
            (names.QUEUE_TIME, counts.queue_s),
            (names.PREFILL_TIME, counts.prefill_s),
            (names.DECODE_TIME, counts.decode_s),
        ):
            for each in seconds:
                self._sink.record(metric, each)

    def record_handoffs(self, counts: HandoffCounts) -> None:
        """What a decode worker has fetched since the last time."""
        self._sink.record(names.HANDOFF_BYTES, counts.num_bytes)
        for seconds in counts.seconds:
            self._sink.record(names.HANDOFF_SECONDS, seconds)

    def _count(self, counts: EngineCounts) -> None:
        self._sink.record(names.PREFIX_QUERIES, counts.prefix_query_tokens)
        self._sink.record(names.PREFIX_HITS, counts.prefix_hit_tokens)
        self._sink.record(names.PROMPT_TOKENS, counts.prompt_tokens)
        self._sink.record(names.GENERATION_TOKENS, counts.generation_tokens)
        self._sink.record(names.PREEMPTIONS, counts.num_preemptions)
        self._sink.record(names.EVICTED_BLOCKS, counts.num_evicted_blocks)
        for reason in KnownFrom:
            self._sink.record(names.RECOMPUTED_TOKENS, counts.recomputed_tokens[reason], reason)
