"""Steps of one new token a sequence, recorded once for each of some batch sizes and then replayed as a whole.

A step of 32 layers is some 290 launches: one by one they take the host longer than a small batch takes the GPU.
"""

import gc
import logging
import time
from collections.abc import Callable
from functools import partial

import torch

from kernels.attention_inputs import StepTensors
from workers.engine.attention_metadata import AttentionMetadata, send
from workers.engine.staged_tensors import StagedTensors
from workers.engine.step_inputs import NO_SOURCE, Model, Planner, StepInputs

logger = logging.getLogger(__name__)

NO_SLOT = -1
Forward = Callable[[], torch.Tensor]
Record = Callable[[Forward], Forward]


class DecodeGraphs:
    """The recorded steps of one model.

    Args:
        planner: makes the works that the model's steps bring along.
        drawn: int64 [max_num_seqs], where the tokens of the batch before lie.
        max_num_seqs: sequences of a batch at most.
        table_width: blocks of a sequence at most.
        record: makes of a computation one that is run as a whole; `CudaRecorder()`.
    """

    def __init__(
        self,
        model: Model,
        planner: Planner,
        kv_cache: torch.Tensor,
        drawn: torch.Tensor,
        max_num_seqs: int,
        table_width: int,
        record: Record,
    ) -> None:
        self._model = model
        self._planner = planner
        self._kv_cache = kv_cache
        self._drawn = drawn
        self._sizes = graph_sizes(max_num_seqs)
        largest = self._sizes[-1]
        row, int32, int64 = (largest,), torch.int32, torch.int64
        fields = {"token_ids": (row, int64), "sources": (row, int64), "positions": (row, int64)}
        fields |= {"slot_mapping": (row, int64), "context_lens": (row, int32)}
        self._inputs = StagedTensors(fields, drawn.device)
        self._tables = torch.zeros(largest, table_width, dtype=int32, device=drawn.device)
        self._starts = torch.arange(largest + 1, dtype=int32, device=drawn.device)
        self._rows = torch.arange(largest, device=drawn.device)
        self._room = {size: planner.decode_room(size, drawn.device) for size in self._sizes}
        self._replay = self._record_all(record)

    def run(self, inputs: StepInputs) -> torch.Tensor | None:
        """Logits [sequences, vocab], valid until the next step; None where the step is not one of these."""
        layout = inputs.layout
        num_sequences = len(layout.query_lens)
        size = next((size for size in self._sizes if size >= num_sequences), None)
        if size is None or len(layout.positions) > num_sequences or len(layout.sample_rows) < num_sequences:
            return None
        padding = size - num_sequences
        context_lens = [*layout.context_lens, *[0] * padding]
        if not self._planner.fill(self._room[size], [1] * size, context_lens):
            return None
        self._fill("token_ids", inputs.token_ids, padding, 0)
        self._fill("sources", inputs.sources, padding, NO_SOURCE)
        self._fill("positions", layout.positions, padding, 0)
        self._fill("slot_mapping", layout.slot_mapping, padding, NO_SLOT)
        self._fill("context_lens", layout.context_lens, padding, 0)
        self._inputs.upload()
        tables = send(layout.block_tables, torch.int32, self._drawn.device)
        self._tables[:num_sequences, : tables.shape[1]] = tables  # only what is used: a long context's are long
        return self._replay[size]()[:num_sequences]

    def _fill(self, name: str, values: list[int], num_padding: int, padding: int) -> None:
        padded = torch.tensor([*values, *[padding] * num_padding])
        self._inputs.host[name][: len(padded)] = padded

    def _record_all(self, record: Record) -> dict[int, Forward]:
        """The largest first: the others find their memory in what it took."""
        begin, replay = time.monotonic(), dict[int, Forward]()
        self._inputs.host["sources"].fill_(NO_SOURCE)
        self._inputs.host["slot_mapping"].fill_(NO_SLOT)
        self._inputs.upload()
        for size in reversed(self._sizes):
            self._planner.fill(self._room[size], [1] * size, [0] * size)  # also decides what kernels are recorded
            replay[size] = record(partial(self._forward, size))
            logger.info("recorded a step of %d sequences, %.1f s", size, time.monotonic() - begin)
        return replay

    def _forward(self, size: int) -> torch.Tensor:
        """Logits of the first `size` rows of the inputs."""
        given = {name: tensor[:size] for name, tensor in self._inputs.device.items()}
        tokens = feed(given["token_ids"], given["sources"], self._drawn)
        step = StepTensors(
            given["positions"],
            given["slot_mapping"],
            self._tables[:size],
            self._starts[: size + 1],
            given["context_lens"],
            self._room[size],
        )
        return self._model.forward(tokens, AttentionMetadata(step, self._rows[:size]), self._kv_cache)


def feed(token_ids: torch.Tensor, sources: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """int64 [tokens], those whose source is not -1 taken from there in `drawn`."""
    return torch.where(sources >= 0, drawn[sources.clamp(min=0)], token_ids)


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to record, rising: 1, 2, 4, 8, 16, then every 16 up to 64 and every 32 beyond."""
    sizes = [1, 2, 4, 8, 16, *range(32, 64, 16), *range(64, max_num_seqs, 32)]
    return [size for size in sizes if size < max_num_seqs] + [max_num_seqs]


class CudaRecorder:
    """Records computations as CUDA graphs, which share their memory: each one's result is gone when the next runs."""

    def __init__(self) -> None:
        gc.collect()  # else the graphs of an engine that is gone might be destroyed while one is recorded, and spoil it
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, forward: Forward) -> Forward:
        """Run once, so that kernels are compiled and loaded, then record."""
        forward()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = forward()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay
