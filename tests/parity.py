"""Transformers' own models as the reference: what they generate, and a recorder to hold our logits against theirs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workers.engine.build import BuiltEngine
from workers.engine.model_runner import ModelRunner
from workers.engine.runner import ComputedBatch
from workers.engine.sampler import sample
from workers.engine.scheduler import ScheduledBatch, ScheduledSequence
from workers.request import SamplingParams

Generated = tuple[list[int], torch.Tensor]  # greedy tokens, and the float32 logits [tokens, vocab] they came from


class LogitsRecorder:
    """A runner that keeps every row of logits it samples from.

    Attributes:
        rows: float32 [vocab] each, by request.
        steps: for each step, the positions that it computed of each request.
    """

    def __init__(self, built: BuiltEngine) -> None:
        assert isinstance(built.engine._runner, ModelRunner)
        self._runner = built.engine._runner
        built.engine._runner = self
        self.rows: dict[str, list[torch.Tensor]] = {}
        self.steps: list[dict[str, range]] = []

    def runs_ahead(self, params: SamplingParams) -> bool:
        return self._runner.runs_ahead(params)

    def launch(self, batch: ScheduledBatch) -> ComputedBatch:
        self.steps.append({item.sequence.request.request_id: positions_of(item) for item in batch.items})
        logits = self._runner.compute_logits(batch)
        sequences = [item.sequence for item in batch.items if item.samples]
        for sequence, row in zip(sequences, logits, strict=True):
            self.rows.setdefault(sequence.request.request_id, []).append(row)
        return ComputedBatch(sample(logits, sequences, frozenset()))


def positions_of(item: ScheduledSequence) -> range:
    """What a step computes of a sequence."""
    begin = item.sequence.num_computed_tokens
    return range(begin, begin + item.num_tokens)


def load_reference(model_dir: Path) -> Any:
    """Transformers' model of a directory, in float32."""
    from transformers import AutoModelForCausalLM  # some seconds

    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


def generate_reference(model: Any, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[Generated]:
    """Greedy completions of prompts of one length, all in one batch."""
    inputs = torch.tensor(prompts)
    out = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=num_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.stack(out.logits, dim=1)
    return [(tokens[inputs.shape[1] :].tolist(), rows) for tokens, rows in zip(out.sequences, logits, strict=True)]
