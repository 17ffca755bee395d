"""The engine's benchmark on a toy model and the CPU: rows that add up, and failures that are told."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.gpu_engine import Load, build, main, measure, prompts, rows, warm_up
from bench.random_model import SPECS, RandomTensors
from tests.helpers import num_leaked_blocks
from workers.engine.sequence import Sequence
from workers.request import GenerationRequest, SamplingParams

CPU = torch.device("cpu")
TOY = Load("toy", "strict", 40, (1, 3), 64, CPU)


def test_every_batch_size_has_a_row_whose_figures_agree() -> None:
    found = list(rows(TOY))
    assert [row.case for row in found] == ["toy g64 strict b=1 ctx=40", "toy g64 strict b=3 ctx=40"]
    for batch_size, row in zip(TOY.batch_sizes, found, strict=True):
        assert row.error == ""
        assert 0 < row.min_ms <= row.ms_per_step <= row.max_ms
        assert batch_size / row.max_ms <= row.tok_s / 1e3 <= batch_size / row.min_ms
        assert row.prefill_tok_s > 0 < row.load_s


def test_a_load_leaves_nothing_in_the_engine() -> None:
    engine = build(TOY)
    measure(engine, TOY, 3, 0.0)
    assert not engine.has_work
    assert num_leaked_blocks(engine) == 0


def test_prompts_share_no_prefix() -> None:
    first = [prompt[:8] for size in (1, 3) for prompt in prompts(SPECS["toy"], TOY, size)]
    assert len(set(first)) == 4


def test_what_warms_an_engine_up_has_a_prompts_length_and_no_prefix_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, begun = build(TOY), list[GenerationRequest]()
    add_request = engine.add_request

    def add_and_note(request: GenerationRequest) -> Sequence:
        begun.append(request)
        return add_request(request)

    monkeypatch.setattr(engine, "add_request", add_and_note)
    warm_up(engine, TOY)
    assert not engine.has_work
    assert num_leaked_blocks(engine) == 0
    assert [len(request.prompt_token_ids) for request in begun] == [TOY.context]
    assert begun[0].prompt_token_ids[:8] not in [prompt[:8] for prompt in prompts(SPECS["toy"], TOY, 3)]


def test_random_weights_are_the_same_each_time_and_decide_the_tokens() -> None:
    texts = []
    for _ in range(2):
        engine = build(TOY)
        engine.add_request(GenerationRequest("r", (1, 2, 3), SamplingParams(max_tokens=12, temperature=0)))
        texts.append([token for _ in range(12) for output in engine.step() for token in output.token_ids])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_norms_are_ones_and_rows_keep_their_size() -> None:
    source = RandomTensors(CPU)
    assert torch.equal(source.read("model.norm.weight", (7,)), torch.ones(7, dtype=torch.bfloat16))
    matrix = source.read("model.layers.0.mlp.up_proj.weight", (64, 256)).float()
    assert matrix.square().sum(1).mean().item() == pytest.approx(1, rel=0.1)


def test_a_load_that_fails_is_a_row_with_its_error() -> None:
    found = list(rows(replace(TOY, context=512)))
    assert [row.tok_s for row in found] == [0, 0]
    assert "max_tokens" in found[0].error


def test_the_command_prints_json_and_keeps_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = [
        "--device",
        "cpu",
        "--models",
        "toy",
        "--numerics",
        "strict",
        "--batch-sizes",
        "2",
        "--context",
        "33",
        "--json",
    ]
    monkeypatch.setattr("sys.argv", ["bench", *options, "--out", str(tmp_path / "engine.json")])
    assert main() == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["case"] for row in printed["rows"]] == ["toy g128 strict b=2 ctx=33"]
    assert json.loads((tmp_path / "engine.json").read_text()) == printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.gpu_engine"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("there is no GPU to run the engine on; --device cpu")
