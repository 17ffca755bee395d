"""Steps on a GPU: launched and left to it, while the host prepares the next."""

from dataclasses import replace

import numpy as np
import torch

from workers.engine.attention_metadata import AttentionMetadata, StepLayout, build_attention_metadata, send
from workers.engine.decode_graphs import NO_SLOT, DecodeGraphs, Record, feed
from workers.engine.device_sampler import DeviceSampler, Draw, DrawnTokens
from workers.engine.kv_cache import KVCache
from workers.engine.scheduler import ScheduledBatch
from workers.engine.step_inputs import NO_SOURCE, Model, Planner, StepInputs
from workers.request import SamplingParams


class DeviceRunner:
    """Runs a model ahead of the host (`workers.engine.runner.Runner`), on the current stream.

    Batches of one new token a sequence replay a recorded step; others, which hold prompts, are launched kernel by
    kernel. Tokens are drawn on the device, and fed from there to the next batch.

    Args:
        planner: makes the works that the model's steps bring along.
        block_size: tokens of a block.
        max_num_seqs, max_num_batched_tokens: sequences and tokens of a batch at most.
        max_len: tokens of a sequence at most.
        draw, record: as for `DeviceSampler` and `DecodeGraphs`.
    """

    def __init__(
        self,
        model: Model,
        planner: Planner,
        kv_cache: KVCache,
        block_size: int,
        eos_token_ids: frozenset[int],
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_len: int,
        draw: Draw,
        record: Record,
    ) -> None:
        self._model = model
        self._planner = planner
        self._kv_cache = kv_cache.tensor
        self._block_size = block_size
        self._device = kv_cache.tensor.device
        self._sampler = DeviceSampler(draw, max_num_seqs, eos_token_ids, self._device)
        width = -(-max_len // block_size)
        with torch.inference_mode():
            self._run_launches(longest_prompt(min(max_num_batched_tokens, max_len), block_size))
            self._graphs = DecodeGraphs(
                model, planner, self._kv_cache, self._sampler.drawn, max_num_seqs, width, record
            )

    def runs_ahead(self, params: SamplingParams) -> bool:
        """Unless the logits are changed by which tokens came before: that is done when a batch is launched."""
        return not params.penalises

    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch) -> DrawnTokens:
        """Start to compute a batch, and to draw its tokens."""
        inputs = StepInputs.of(batch, self._block_size)
        logits = self._graphs.run(inputs)
        if logits is None:
            logits = self._run_launches(inputs)
        return self._sampler.launch(logits, [item.sequence for item in batch.items if item.samples])

    def _run_launches(self, inputs: StepInputs) -> torch.Tensor:
        """Logits of a step that is not recorded."""
        layout, device = inputs.layout, self._device
        metadata = build_attention_metadata(layout, device)
        works = self._planner.works(layout.query_lens, layout.context_lens, device)
        metadata = AttentionMetadata(replace(metadata.step, works=works), metadata.sample_rows)
        token_ids, sources = (send(values, torch.int64, device) for values in (inputs.token_ids, inputs.sources))
        return self._model.forward(feed(token_ids, sources, self._sampler.drawn), metadata, self._kv_cache)


def longest_prompt(num_tokens: int, block_size: int) -> StepInputs:
    """A step of one prompt that writes nothing. It compiles what prompts need, so that no request waits for that."""
    tables = np.zeros((1, -(-num_tokens // block_size)), dtype=np.int32)
    positions, no_slots = list(range(num_tokens)), [NO_SLOT] * num_tokens
    layout = StepLayout(positions, no_slots, tables, [num_tokens], [num_tokens], [num_tokens - 1])
    return StepInputs([0] * num_tokens, [NO_SOURCE] * num_tokens, layout)
