"""The cost of a text: held against Transformers, against its definition, and through `raydix perplexity`."""

import json
import lzma
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cli import main
from workers.config import WeightConfig
from workers.perplexity import Prediction, load_decoder, predict, windows
from workers.text_file import read_text_file
from workers.validation import RequestError

FLOAT = WeightConfig(quantization="none", dtype="float32", numerics="fast", device="cpu")
TEXT = "import os\n\n\ndef walk(top):\n    return os.walk(top)\n"


@given(length=st.integers(2, 200), context=st.integers(2, 40))
@settings(deadline=None)
def test_each_token_but_the_first_is_predicted_once_with_half_a_window_before_it(length: int, context: int) -> None:
    predicted: list[int] = []
    for window, seen in windows(range(length), context):
        assert len(window) <= context + 1
        assert seen == 0 or seen >= context // 2
        predicted += window[seen + 1 :].tolist()
    assert predicted == list(range(1, length))


def test_the_cost_is_what_transformers_says(tied_dir: Path) -> None:
    from transformers import LlamaForCausalLM

    tokens = torch.randint(256, (50,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = LlamaForCausalLM.from_pretrained(tied_dir, dtype=torch.float32)(tokens[None]).logits[0]
    expected = F.cross_entropy(logits[:-1], tokens[1:], reduction="sum").item()
    found = predict(load_decoder(tied_dir, FLOAT), tokens.tolist(), 50)
    assert found.nats == pytest.approx(expected, rel=1e-4)
    assert found.tokens == 49


def test_perplexity_is_per_token_and_bits_are_per_byte() -> None:
    fair_coin = Prediction(nats=8 * math.log(2), tokens=8, bytes=4)
    assert fair_coin.perplexity == pytest.approx(2)
    assert fair_coin.bits_per_byte == pytest.approx(2)


def test_a_text_of_one_token_is_refused(tied_dir: Path) -> None:
    with pytest.raises(RequestError, match="1 tokens; at least two"):
        predict(load_decoder(tied_dir, FLOAT), [1], 1)


def test_a_text_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    (tmp_path / "text.txt.xz").write_bytes(lzma.compress(TEXT.encode()))
    assert read_text_file(tmp_path / "text.txt") == read_text_file(tmp_path / "text.txt.xz") == TEXT


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", None, "No such file"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xff\xfe", "cannot be read as text"),
        ("a.txt.xz", TEXT.encode(), "cannot be read as text"),
        ("a.txt.xz", lzma.compress(TEXT.encode())[:-20], "cannot be read as text"),
    ],
)
def test_what_is_no_text_is_refused(
    name: str, content: bytes | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["perplexity", "models/tiny", "--text", str(tmp_path / name)]) == 2
    assert says in capsys.readouterr().err


def test_the_command_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    assert main(["perplexity", "models/tiny", "--text", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"perplexity", "bits_per_byte", "tokens", "bytes"}
    assert shown["bytes"] == len(TEXT)
    total_bits = shown["tokens"] * math.log2(shown["perplexity"])
    assert total_bits == pytest.approx(shown["bits_per_byte"] * shown["bytes"])
    assert 0.1 < shown["bits_per_byte"] < 3
    assert main(["perplexity", "models/tiny", "--text", str(path)]) == 0
    assert f"{shown['bits_per_byte']:.4f}" in capsys.readouterr().out
