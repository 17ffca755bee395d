"""Bugs that other engines had: what led to them does no harm here, and would be noticed if it did."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import drain, generate, request_of, small_engine
from tests.pair import Pair
from tests.parity import LogitsRecorder
from tests.seeded_block_bugs import BLOCK_BUGS, many_requests_come_and_go
from tests.seeded_bug import SeededBug
from tests.seeded_flight_bugs import FLIGHT_BUGS
from tests.seeded_prefix_bugs import PREFIX_BUGS
from workers.engine import build
from workers.engine.kv_manager import KVManager
from workers.engine.sequence import Sequence

BUGS = [pytest.param(bug, id=bug.scenario.__name__) for bug in BLOCK_BUGS + PREFIX_BUGS + FLIGHT_BUGS]


@pytest.mark.parametrize("bug", BUGS)
def test_a_healthy_engine_passes(bug: SeededBug) -> None:
    bug.scenario()


@pytest.mark.parametrize("bug", BUGS)
def test_the_bug_is_noticed(bug: SeededBug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.seed(monkeypatch)
    with pytest.raises((AssertionError, ValueError), match=bug.noticed):
        bug.scenario()


@pytest.mark.long
def test_a_hundred_thousand_requests_leave_nothing() -> None:
    many_requests_come_and_go(100_000)


def logits_after_a_hit(model_dir: Path, hit: int) -> torch.Tensor:
    """Logits [tokens, vocab] of one prompt of which a prefix was cached."""
    prompt = [(i * i * 31 + 5) % 256 for i in range(41)]
    built = small_engine(model_dir, quantization="int4", dtype="bfloat16")
    if hit:
        generate(built.engine, [request_of("before", prompt[:hit], 1)])
    recorder = LogitsRecorder(built)
    built.engine.add_request(request_of("r", prompt, 4))
    outputs = drain(built.engine.step, built.engine)
    assert outputs[0].num_cached_tokens == hit // 4 * 4
    return torch.stack(recorder.rows["r"])


def cached_and_cold_logits_are_the_same_bits(model_dir: Path) -> None:
    """vllm#33123: logits after a cache hit were not those of a cold prefill."""
    cold = logits_after_a_hit(model_dir, 0)
    for hit in range(1, 41):
        assert torch.equal(logits_after_a_hit(model_dir, hit), cold), f"another result after a hit of {hit} tokens"


@pytest.mark.usefixtures("one_thread")
def test_cached_and_cold_logits_are_the_same_bits(untied_dir: Path) -> None:
    cached_and_cold_logits_are_the_same_bits(untied_dir)


@pytest.mark.usefixtures("one_thread")
def test_a_hit_taken_for_longer_than_it_is_is_noticed(untied_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict numerics leave a hit no way to change a sum; the nearest mistake is to compute a token too few."""
    admit = KVManager.admit

    def admit_one_more(self: KVManager, sequence: Sequence) -> bool:
        admitted = admit(self, sequence)
        sequence.num_computed_tokens += admitted and sequence.num_cached_tokens > 0
        return admitted

    monkeypatch.setattr(KVManager, "admit", admit_one_more)
    with pytest.raises(AssertionError, match="another result after a hit"):
        cached_and_cold_logits_are_the_same_bits(untied_dir)


def two_models_of_one_name(model_dir: Path, place: Path) -> None:
    """vllm#30931: an adapter was reloaded under its name, and requests for it met the KV of the old one."""
    old, new = (Path(shutil.copytree(model_dir, place / version / "model")) for version in ("old", "new"))
    weights = load_file(new / "model.safetensors")
    weights["model.layers.0.self_attn.k_proj.weight"].neg_()
    save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
    prompt = [(i * 29 + 1) % 256 for i in range(20)]
    pair = Pair(small_engine(old), small_engine(new))
    first, *rest = pair.run([request_of("r", prompt, 12)])["r"]
    alone = generate(small_engine(new).engine, [request_of("r", [*prompt, first], 11)])["r"]
    assert rest == alone, "the KV of another model was taken"


@pytest.mark.usefixtures("one_thread")
def test_two_models_of_one_name_share_nothing(untied_dir: Path, tmp_path: Path) -> None:
    two_models_of_one_name(untied_dir, tmp_path)


@pytest.mark.usefixtures("one_thread")
def test_a_namespace_made_of_names_is_noticed(
    untied_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "model_digest", lambda model_dir: model_dir.name)
    with pytest.raises(AssertionError, match="the KV of another model was taken"):
        two_models_of_one_name(untied_dir, tmp_path)
