"""The bundled model: what it promises in its card, and that the engine computes what Transformers computes with it."""

import json
import lzma

import pytest
import torch

from bench.quality import CONFIGS, FLOAT, bits_per_byte, held_out_text, xz_bits_per_byte
from tests.helpers import request_of, small_engine
from workers.models.spec import read_model_spec
from workers.perplexity import all_logits, load_decoder
from workers.tokenizer import Tokenizer
from workers.weights.manifest import read_manifest, verify_manifest
from workers.weights.model_dir import TINY_MODEL

PROMPT = "import os\n\n\ndef walk(top, followlinks=False):\n    "
INT4 = CONFIGS["int4 g64 (default)"]


def test_it_is_small_grouped_and_long_enough() -> None:
    spec = read_model_spec(TINY_MODEL)
    assert sum(path.stat().st_size for path in TINY_MODEL.iterdir()) <= 16 * 2**20
    assert spec.max_model_len >= 2048
    assert 0 < spec.num_kv_heads < spec.num_heads
    assert Tokenizer(TINY_MODEL).vocab_size == spec.vocab_size


def test_its_files_are_those_it_was_published_with() -> None:
    assert read_manifest(TINY_MODEL) is not None
    verify_manifest(TINY_MODEL)


def test_its_card_reports_the_training_that_was_run() -> None:
    report = json.loads((TINY_MODEL / "training.json").read_text())
    card = (TINY_MODEL / "README.md").read_text()
    assert f"{report['steps']:,} steps" in card
    assert f"seed {report['seed']}" in card
    assert report["model_bits_per_byte"] < report["xz_bits_per_byte"]


def test_greedy_tokens_and_logits_equal_transformers_in_float32() -> None:
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    tokens = Tokenizer(TINY_MODEL).encode(PROMPT)
    expected = reference.generate(torch.tensor([tokens]), max_new_tokens=100, do_sample=False)[0].tolist()
    engine = small_engine(TINY_MODEL, num_blocks=64, block_size=16).engine
    sequence = engine.add_request(request_of("a", tokens, max_tokens=len(expected) - len(tokens)), hold=True)
    while engine.has_work:
        engine.step()
    assert sequence.token_ids == expected
    with torch.inference_mode():
        ours = all_logits(load_decoder(TINY_MODEL, FLOAT), torch.tensor(expected))
        theirs = reference(torch.tensor([expected])).logits[0]
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


def test_int4_costs_at_most_five_percent_and_float_beats_xz() -> None:
    """On a slice of the held-out text; the whole of it in `make test-long`."""
    text = held_out_text(312_000)[300_000:]
    as_float = bits_per_byte(TINY_MODEL, text, FLOAT)
    assert as_float < 8 * len(lzma.compress(text.encode(), preset=9)) / len(text.encode())
    assert bits_per_byte(TINY_MODEL, text, INT4) < 1.05 * as_float


@pytest.mark.long
def test_on_all_held_out_text_int4_costs_at_most_five_percent_and_float_beats_xz() -> None:
    text = held_out_text()
    as_float = bits_per_byte(TINY_MODEL, text, FLOAT)
    assert as_float < xz_bits_per_byte()
    assert bits_per_byte(TINY_MODEL, text, INT4) < 1.05 * as_float
