"""Every family and every feature of one computes what Transformers' own class computes.

The same 200 greedy tokens, and float32 logits within TOLERANCE of the largest one, in blocks and chunks of several
sizes. The largest difference seen is 3e-6; the bound leaves room for other CPUs.
"""

from pathlib import Path

import pytest
import torch

from tests.families import VARIANTS, save_random_model
from tests.helpers import VOCAB_SIZE, generate, request_of, small_engine
from tests.parity import Generated, LogitsRecorder, generate_reference, load_reference

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_TOKENS = 200
PROMPTS = [[(i * i * factor + 5) % VOCAB_SIZE for i in range(29)] for factor in (31, 7, 58)]
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Generated]]:
    path = save_random_model(tmp_path_factory.mktemp("model"), request.param)
    return path, generate_reference(load_reference(path), PROMPTS, NUM_TOKENS)


def assert_same(model: tuple[Path, list[Generated]], block_size: int, budget: int) -> None:
    model_dir, wanted = model
    built = small_engine(
        model_dir,
        num_blocks=-(-900 // block_size),
        block_size=block_size,
        max_num_seqs=3,
        max_num_batched_tokens=budget,
    )
    recorder = LogitsRecorder(built)
    tokens = generate(built.engine, [request_of(str(i), prompt, NUM_TOKENS) for i, prompt in enumerate(PROMPTS)])
    for i, (wanted_tokens, wanted_logits) in enumerate(wanted):
        assert tokens[str(i)] == wanted_tokens, i
        difference = (torch.stack(recorder.rows[str(i)]) - wanted_logits).abs().max()
        assert float(difference / wanted_logits.abs().max()) < TOLERANCE, i


@pytest.mark.parametrize(("block_size", "budget"), [(4, 5), (16, 2048)])
def test_logits_and_tokens_are_those_of_transformers(
    model: tuple[Path, list[Generated]], block_size: int, budget: int
) -> None:
    assert_same(model, block_size, budget)


@pytest.mark.long
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("budget", [5, 64, 2048])
def test_in_blocks_and_chunks_of_every_size(model: tuple[Path, list[Generated]], block_size: int, budget: int) -> None:
    assert_same(model, block_size, budget)


@pytest.mark.long
def test_preemption_eviction_and_the_prefix_cache_change_no_token(model: tuple[Path, list[Generated]]) -> None:
    """A pool that holds little more than one of the three; the second round finds what the first one left of it."""
    model_dir, wanted = model
    engine = small_engine(model_dir, num_blocks=70, max_num_batched_tokens=16).engine
    for _ in range(2):
        requests = [request_of(str(i), prompt, NUM_TOKENS) for i, prompt in enumerate(PROMPTS)]
        assert generate(engine, requests) == {str(i): tokens for i, (tokens, _) in enumerate(wanted)}
