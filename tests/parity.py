"""Transformers' own models as the reference: what they generate, and a recorder to hold our logits against theirs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workers.engine.build import BuiltEngine
from workers.engine.model_runner import ModelRunner
from workers.engine.scheduler import ScheduledBatch, ScheduledSequence

Generated = tuple[list[int], torch.Tensor]  # greedy tokens, and the float32 logits [tokens, vocab] they came from


class LogitsRecorder:
    """Keeps every row of logits that an engine samples from.

    Attributes:
        rows: float32 [vocab] each, by request.
        steps: for each step, the positions that it computed of each request.
    """

    def __init__(self, built: BuiltEngine) -> None:
        assert isinstance(built.engine._runner, ModelRunner)
        self._compute = built.engine._runner.compute_logits
        built.engine._runner.compute_logits = self._record  # type: ignore[method-assign]
        self.rows: dict[str, list[torch.Tensor]] = {}
        self.steps: list[dict[str, range]] = []

    def _record(self, batch: ScheduledBatch) -> torch.Tensor:
        self.steps.append({item.sequence.request.request_id: positions_of(item) for item in batch.items})
        logits = self._compute(batch)
        names = [item.sequence.request.request_id for item in batch.items if item.samples]
        for name, row in zip(names, logits, strict=True):
            self.rows.setdefault(name, []).append(row)
        return logits


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
