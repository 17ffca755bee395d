"""The witness model: batches that write to `WitnessMemory`, and draw tokens from what they read back."""

import zlib
from array import array
from collections import deque

from tests.witness_memory import POISON, WitnessMemory
from workers.engine.scheduler import ScheduledBatch, ScheduledSequence
from workers.request import SampledToken, SamplingParams

VOCAB_SIZE = 32


class WitnessItem:
    """What a sequence's part of a batch is about, as it is at the launch."""

    def __init__(self, item: ScheduledSequence) -> None:
        sequence, begin = item.sequence, item.sequence.num_computed_tokens
        assert item.num_tokens > 0, "there are no logits where no token is computed"
        self.item = item
        self.table = list(sequence.block_table)
        self.positions = range(begin, begin + item.num_tokens)
        self.tokens = sequence.token_ids[begin : self.positions.stop]
        self.num_fed = item.num_tokens - len(self.tokens)
        assert self.num_fed == (item.fed_from is not None), "a token is neither known nor fed"
        assert sequence.num_output_tokens < sequence.request.sampling.max_tokens, "nothing follows the last token"
        assert not self.num_fed or not sequence.request.sampling.penalises, "a penalty needs to know the token"
        assert not item.samples or self.positions.stop == sequence.num_tokens, "a token is drawn for another place"


class WitnessBatch:
    """A batch on its way (`workers.engine.runner.LaunchedBatch`)."""

    def __init__(self, runner: "WitnessRunner", batch: ScheduledBatch, before: "WitnessBatch | None") -> None:
        self._runner = runner
        self._items = [WitnessItem(item) for item in batch.items]
        self._before = before
        self.tokens: list[int] | None = None

    def compute(self) -> None:
        """Write all, then read all."""
        memory, tokens = self._runner.memory, []
        for item in self._items:
            for position, token in zip(item.positions, item.tokens + self._fed(item), strict=True):
                memory.write(item.table, position, token)
        for item in self._items:
            if item.item.samples:
                content = memory.read(item.table, item.positions.stop)
                assert POISON not in content, f"{item.item.sequence.request.request_id} reads a block that is free"
                tokens.append(next_token(content, item.item.sequence.index))
        self.tokens, self._before = tokens, None

    def collect(self) -> list[SampledToken]:
        self._runner.memory.compute(until=lambda: self.tokens is not None)
        assert self._runner.uncollected.popleft() is self, "batches are collected in order, once each"
        assert self.tokens is not None
        return [SampledToken(token) for token in self.tokens]

    def _fed(self, item: WitnessItem) -> list[int]:
        if item.item.fed_from is None:
            return []
        assert self._before is not None, "there is no batch to be fed from"
        assert self._before.tokens is not None, "batches are computed in order"
        self._runner.memory.seen["fed"] += 1
        return [self._before.tokens[item.item.fed_from]]


class WitnessRunner:
    """Writes and reads `WitnessMemory` (`workers.engine.runner.Runner`); `batches` records what was asked of it."""

    def __init__(self, memory: WitnessMemory, *, ahead: bool = False) -> None:
        self.memory = memory
        self._ahead = ahead
        self._last: WitnessBatch | None = None
        self.batches: list[list[tuple[str, int]]] = []
        self.uncollected: deque[WitnessBatch] = deque()

    def runs_ahead(self, params: SamplingParams) -> bool:
        return self._ahead and not params.penalises

    def launch(self, batch: ScheduledBatch) -> WitnessBatch:
        self.batches.append([(item.sequence.request.request_id, item.num_tokens) for item in batch.items])
        self._last = WitnessBatch(self, batch, self._last)
        self.uncollected.append(self._last)
        assert len(self.uncollected) <= 1 + self._ahead, "too many batches are in flight"
        self.memory.enqueue(self._last.compute)
        return self._last


def next_token(kv: "array[int]", index: int = 0) -> int:
    """The model: a hash of all it reads, another one for each completion of a request."""
    return zlib.crc32(kv.tobytes(), index) % VOCAB_SIZE
