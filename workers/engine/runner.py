"""What the engine asks of whatever computes its batches."""

from dataclasses import dataclass
from typing import Protocol

from workers.engine.scheduler import ScheduledBatch
from workers.request import SampledToken, SamplingParams


class LaunchedBatch(Protocol):
    """A batch that is being computed, or has been."""

    def collect(self) -> list[SampledToken]:
        """Wait for the batch; one token per item that samples, in order. An error here loses the whole engine."""


class Runner(Protocol):
    """Computes batches in the order in which they are launched (`ModelRunner`).

    One that runs ahead works in one order, that of a CUDA stream: batches, `BlockMemory` and what reads blocks for a
    hand-off see the KV memory as if each had ended before the next call began. The engine counts on it: it frees blocks
    that the batch in flight still writes to, and shares, copies and publishes blocks that this batch is to fill.

    Batches are collected once each, in order, and at most two are launched and not collected. One whose tokens nobody
    waits for any more may stay so until the next is launched.
    """

    def runs_ahead(self, params: SamplingParams) -> bool:
        """Whether `launch` takes a token of such a request before the host knows it (`ScheduledSequence.fed_from`).

        Must be False where a draw depends on which tokens came before (`params.penalises`), or is made on the host:
        such a sequence is in every other batch at most while others run ahead. False for all is the plain order, where
        each batch is collected before the next is scheduled.
        """

    def launch(self, batch: ScheduledBatch) -> LaunchedBatch:
        """Start to compute a batch of at least one item.

        Must have read all that it needs of the sequences' tokens, tables and progress when it returns: they change
        before `collect`. What may be read later is frozen: the items' own numbers, and a sequence's request and index.
        Counts of tokens include those in flight (`Sequence.num_tokens`); `token_ids` are those that the host knows.

        An error leaves the engine as it was before the launch.
        """


@dataclass(frozen=True)
class ComputedBatch:
    """A batch that was computed at its launch."""

    tokens: list[SampledToken]

    def collect(self) -> list[SampledToken]:
        """Its tokens, at once."""
        return self.tokens
