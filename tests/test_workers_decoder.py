"""The decoder over paged KV computes what Transformers' own Llama computes, in every mode of the engine."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from kernels.decoder_layers import ReferenceLayers
from tests.families import save_random_model
from tests.helpers import VOCAB_SIZE, drain, edit_json, generate, request_of, small_engine
from tests.parity import Generated, LogitsRecorder, generate_reference, load_reference
from workers.engine.model_runner import ModelRunner
from workers.request import GenerationRequest

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_TOKENS = 100
PROMPTS = {
    "long": [(i * i * 31 + 5) % VOCAB_SIZE for i in range(37)],
    "short": [3, 1, 4],
    "one": [200],
    "blocks": [(i * 29 + 1) % VOCAB_SIZE for i in range(32)],
}
Reference = dict[str, Generated]


def reference(model_dir: Path) -> Reference:
    """What every prompt is completed with, one at a time."""
    model = load_reference(model_dir)
    return {name: generate_reference(model, [prompt], NUM_TOKENS)[0] for name, prompt in PROMPTS.items()}


@pytest.fixture(scope="module")
def references(one_thread: None, untied_dir: Path, tied_dir: Path) -> dict[str, Reference]:
    return {"untied": reference(untied_dir), "tied": reference(tied_dir)}


@pytest.fixture(params=["untied", "tied"])
def head(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model_dir(head: str, untied_dir: Path, tied_dir: Path) -> Path:
    return {"untied": untied_dir, "tied": tied_dir}[head]


@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("budget", [7, 2048])
def test_greedy_tokens_are_those_of_transformers(
    head: str, model_dir: Path, references: dict[str, Reference], block_size: int, budget: int
) -> None:
    engine = small_engine(model_dir, num_blocks=200, block_size=block_size, max_num_batched_tokens=budget).engine
    wanted = {name: tokens for name, (tokens, _) in references[head].items()}
    for _ in ("computed", "cached"):
        assert generate(engine, [request_of(name, prompt, NUM_TOKENS) for name, prompt in PROMPTS.items()]) == wanted


@pytest.mark.parametrize("budget", [7, 2048])
def test_logits_are_those_of_transformers(
    head: str, model_dir: Path, references: dict[str, Reference], budget: int
) -> None:
    """The largest difference seen is 4e-6 of the largest logit; the bound leaves room for other CPUs."""
    built = small_engine(model_dir, num_blocks=200, max_num_batched_tokens=budget)
    recorder = LogitsRecorder(built)
    for name, prompt in PROMPTS.items():
        built.engine.add_request(request_of(name, prompt, NUM_TOKENS))
    drain(built.engine.step, built.engine)
    for name, (_, wanted) in references[head].items():
        difference = (torch.stack(recorder.rows[name]) - wanted).abs().max()
        assert float(difference / wanted.abs().max()) < 2e-5, name


def test_preemption_and_eviction_change_no_token(untied_dir: Path, references: dict[str, Reference]) -> None:
    """A pool in which only one of the four prompts and its completion fits."""
    engine = small_engine(untied_dir, num_blocks=35, max_num_batched_tokens=16).engine
    wanted = {name: tokens for name, (tokens, _) in references["untied"].items()}
    assert generate(engine, [request_of(name, prompt, NUM_TOKENS) for name, prompt in PROMPTS.items()]) == wanted


@pytest.mark.parametrize("quantization", ["int4", "none"])
def test_bfloat16_stays_close_to_transformers(
    untied_dir: Path, references: dict[str, Reference], quantization: Literal["int4", "none"]
) -> None:
    """Not the same tokens, but the same function: first-token logits correlate with those of float32."""
    built = small_engine(untied_dir, dtype="bfloat16", quantization=quantization)
    recorder = LogitsRecorder(built)
    for name, prompt in PROMPTS.items():
        built.engine.add_request(request_of(name, prompt, 1))
    drain(built.engine.step, built.engine)
    for name, (_, wanted) in references["untied"].items():
        correlation = torch.corrcoef(torch.stack([recorder.rows[name][0], wanted[0]]))[0, 1]
        assert float(correlation) > (0.7 if quantization == "int4" else 0.99), name


@pytest.mark.parametrize("variant", ["llama", "llama-biases", "mistral-window", "qwen3-everything"])
def test_strict_logits_are_the_same_bits_alone_and_batched(variant: str, tmp_path: Path) -> None:
    """The mode that is served by default; a draw may turn on the last bit, so close is not enough."""
    model_dir = save_random_model(tmp_path, variant)
    batch = [request_of(name, prompt, 20) for name, prompt in PROMPTS.items()]
    together, alone = strict_logits(model_dir, [batch], 7), strict_logits(model_dir, [[r] for r in batch], 2048)
    for name in PROMPTS:
        assert torch.equal(together[name], alone[name]), name


def strict_logits(model_dir: Path, batches: list[list[GenerationRequest]], budget: int) -> dict[str, torch.Tensor]:
    """The logits of all requests, [tokens, vocab] each; every batch on an engine of its own."""
    rows: dict[str, torch.Tensor] = {}
    for batch in batches:
        built = small_engine(model_dir, max_num_batched_tokens=budget, quantization="int4", dtype="bfloat16")
        recorder = LogitsRecorder(built)
        generate(built.engine, batch)
        rows |= {name: torch.stack(logits) for name, logits in recorder.rows.items()}
    return rows


def test_tables_are_as_long_as_what_can_be_served(model_copy: Path) -> None:
    """A context of a million tokens would take 64 MiB of them here, and half a gigabyte in a larger model."""
    request = request_of("a", range(32), max_tokens=8, ignore_eos=True)
    wanted = generate(small_engine(model_copy).engine, [request])
    edit_json(model_copy / "config.json", max_position_embeddings=2**20)
    built = small_engine(model_copy, num_blocks=10, block_size=4)
    assert isinstance(built.engine._runner, ModelRunner)
    layers = built.engine._runner._model._layers
    assert isinstance(layers, ReferenceLayers)
    assert layers._rope.cos.shape == (40, 8)
    assert generate(built.engine, [request]) == wanted
