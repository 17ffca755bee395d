"""Real models that run ahead, as they do on a device that computes while the host goes on."""

from workers.engine.build import BuiltEngine
from workers.engine.engine import Engine
from workers.engine.model_runner import ModelRunner
from workers.engine.runner import ComputedBatch
from workers.engine.scheduler import ScheduledBatch, ScheduledSequence
from workers.request import SamplingParams


class AheadRunner(ModelRunner):
    """Computes a batch at its launch, and keeps its tokens to itself until they are collected."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner._model, runner._kv_cache, runner._block_size, runner._eos_token_ids)
        self._last = ComputedBatch([])
        self.num_fed = 0

    def runs_ahead(self, params: SamplingParams) -> bool:
        return not params.penalises

    def launch(self, batch: ScheduledBatch) -> ComputedBatch:
        self._last = super().launch(batch)
        return self._last

    def input_tokens(self, item: ScheduledSequence) -> list[int]:
        if item.fed_from is None:
            return super().input_tokens(item)
        self.num_fed += 1
        return [self._last.tokens[item.fed_from].token_id]


def run_ahead(engine: Engine) -> AheadRunner:
    """Have an engine that has no work run ahead."""
    assert isinstance(engine._runner, ModelRunner)
    engine._runner = runner = AheadRunner(engine._runner)
    return runner


def ahead(built: BuiltEngine) -> BuiltEngine:
    """The same, for one that was just built."""
    run_ahead(built.engine)
    return built
