"""`raydix quantize` as its user meets it: a model that is served, an interrupt that costs little, and refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.cli import main
from tests.families import save_random_model
from tests.helpers import edit_json, save_random_llama
from workers.config import WeightConfig
from workers.llm import LLM
from workers.perplexity import all_logits, load_decoder, predict
from workers.text_file import read_text_file
from workers.tokenizer import Tokenizer
from workers.weights.manifest import read_manifest, verify_manifest
from workers.weights.model_dir import TINY_MODEL

FLOAT = WeightConfig(quantization="none", dtype="float32", numerics="fast", device="cpu")
CALIBRATION = TINY_MODEL / "calibration.txt.xz"


@pytest.fixture(scope="module")
def short_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some two thousand tokens."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_text_file(CALIBRATION)[:6000], "utf-8")
    return path


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, with the bundled tokenizer: eight layers to be interrupted in."""
    path = tmp_path_factory.mktemp("small")
    save_random_llama(path, num_layers=8, tied=True, vocab_size=4096)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_MODEL / name, path)
    return path


def quantize(source: Path, destination: Path, *options: str | Path) -> int:
    return main(["quantize", str(source), str(destination), *map(str, options)])


def test_the_bundled_model_is_quantised_and_served(tmp_path: Path, short_text: Path) -> None:
    """GPTQ on little text, against rounding: closer to the floats on other text, in as many bytes."""
    assert quantize(TINY_MODEL, tmp_path / "gptq", "--method", "gptq", "--calibration", short_text) == 0
    assert quantize(TINY_MODEL, tmp_path / "rtn", "--method", "rtn") == 0
    verify_manifest(tmp_path / "gptq")
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors")) for name in ("gptq", "rtn")]
    assert sizes[0] == sizes[1]
    text = read_text_file(TINY_MODEL / "heldout.txt.xz")[300_000:304_000]
    tokens = Tokenizer(TINY_MODEL).encode(text)
    bits = {
        directory.name: predict(load_decoder(directory), tokens, len(text.encode())).bits_per_byte
        for directory in (TINY_MODEL, tmp_path / "gptq", tmp_path / "rtn")
    }
    assert bits["gptq"] - bits["tiny"] < 2 / 3 * (bits["rtn"] - bits["tiny"])
    assert LLM(tmp_path / "gptq").generate("import os\n", use_tqdm=False)[0].outputs[0].text.strip()


def test_the_manifest_says_what_was_done(tmp_path: Path, small_model: Path, short_text: Path) -> None:
    options = ("--group-size", "32", "--symmetric", "--calibration", short_text)
    assert quantize(small_model, tmp_path / "awq", "--method", "awq", *options) == 0
    manifest = read_manifest(tmp_path / "awq")
    assert manifest is not None
    making = manifest.making
    assert making.method == "awq"
    assert making.options == {
        "bits": 4,
        "granularity": "group",
        "group_size": 32,
        "symmetric": True,
        "search": "mse",
    }
    assert making.calibration is not None
    assert making.calibration.bytes == short_text.stat().st_size
    assert making.calibration.tokens == len(Tokenizer(small_model).encode(short_text.read_text("utf-8")))
    assert set(manifest.files) == {path.name for path in (tmp_path / "awq").iterdir()} - {"manifest.json"}


def test_transformers_compute_the_same_with_what_was_written(
    tmp_path: Path, small_model: Path, short_text: Path
) -> None:
    """Symmetric, for it makes room for zero points in another shape than its own library stores them in."""
    from transformers import LlamaForCausalLM

    options = ("--symmetric", "--group-size", "32", "--calibration", short_text)
    assert quantize(small_model, tmp_path / "model", "--method", "awq", *options) == 0
    tokens = torch.arange(5, 105)
    with torch.inference_mode():
        theirs = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)(tokens[None]).logits[0]
        ours = all_logits(load_decoder(tmp_path / "model", FLOAT), tokens)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < until_s
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("method", "stop"),
    [("gptq", signal.SIGINT), pytest.param("awq", signal.SIGKILL, marks=pytest.mark.long)],
)
def test_after_an_interrupt_it_goes_on_to_the_very_same_files(
    method: str, stop: signal.Signals, tmp_path: Path, small_model: Path, short_text: Path
) -> None:
    options = ["--method", method, "--calibration", str(short_text), "--group-size", "32"]
    assert quantize(small_model, tmp_path / "whole", *options) == 0
    destination = tmp_path / "interrupted"
    command = "import sys; from cluster.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", command, "quantize", str(small_model), str(destination), *options]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": "."})
    wait_for(destination / "model-00002-of-00009.safetensors", process)
    process.send_signal(stop)
    assert process.wait(60) == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert not (destination / "config.json").exists()  # nobody takes it for a model
    kept = {path.name: path.stat().st_mtime_ns for path in destination.glob("*.safetensors")}
    assert 2 <= len(kept) < 9
    assert quantize(small_model, destination, *options) == 0
    assert all((destination / name).stat().st_mtime_ns == time_ns for name, time_ns in kept.items())
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in destination.iterdir()} == whole


def interrupted(source: Path, destination: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """Quantise all layers, and end before the rest is written."""
    with monkeypatch.context() as patch:
        patch.setattr("workers.quantization.float_model.FloatModel.outside_layers", interrupt)
        assert quantize(source, destination, *options) == 130


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_finished_layer_that_was_damaged_is_made_again(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "model"
    interrupted(small_model, destination, monkeypatch, "--method", "int8")
    damaged = destination / "model-00003-of-00009.safetensors"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert quantize(small_model, destination, "--method", "int8") == 0
    assert damaged.read_bytes() == good
    verify_manifest(destination)


def test_what_was_begun_otherwise_is_not_gone_on_with(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = tmp_path / "model"
    interrupted(small_model, destination, monkeypatch, "--method", "int8")
    assert f"finished layers are kept in {destination}" in capsys.readouterr().err
    assert quantize(small_model, destination, "--method", "rtn", "--group-size", "32") == 2
    assert "was begun with another method and options" in capsys.readouterr().err
    (destination / "quantize.partial").write_text("{")
    assert quantize(small_model, destination, "--method", "int8") == 2
    assert "begin again" in capsys.readouterr().err


def test_floats_are_kept_as_they_are(tmp_path: Path) -> None:
    """All but the matrices of the layers: embedding, head, norms and biases."""
    source = save_random_model(tmp_path / "source", "qwen2")
    assert quantize(source, tmp_path / "model", "--method", "rtn", "--group-size", "32") == 0
    before = load_file(source / "model.safetensors")
    after = {name: t for file in (tmp_path / "model").glob("*.safetensors") for name, t in load_file(file).items()}
    kept = [name for name in before if "_proj.weight" not in name]
    assert len(kept) > 10
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert len(after) == len(kept) + 4 * (len(before) - len(kept))


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "int8"])
def test_eight_bits_are_nearly_the_floats(method: str, tmp_path: Path, small_model: Path, short_text: Path) -> None:
    options = ["--method", method, "--bits", "8", "--group-size", "32"]
    if method in ("gptq", "awq"):
        options += ["--calibration", str(short_text)]
    assert quantize(small_model, tmp_path / "model", *options) == 0
    tokens = list(range(3, 150))
    nats = [predict(load_decoder(path, FLOAT), tokens, 1).nats for path in (small_model, tmp_path / "model")]
    assert nats[1] == pytest.approx(nats[0], rel=0.01)


REFUSED = [
    (["--method", "rtn", "--group-size", "100"], "group_size 100 does not fit a weight with 64 inputs"),
    (["--method", "rtn", "--group-size", "0"], "there is --granularity"),
    (["--method", "rtn", "--group-size", "-1"], "there is --granularity"),
    (["--method", "rtn", "--group-size", "33"], "group_size is 33; it must be even"),
    (["--method", "rtn", "--granularity", "channel", "--group-size", "32"], "contradict each other"),
    (["--method", "int8", "--bits", "4"], "int8 has 8 bits, not 4"),
    (["--method", "gptq", "--group-size", "32"], "give a text with --calibration"),
    (["--method", "rtn", "--group-size", "32", "--calibration", "README.md"], "leave --calibration out"),
    (["--method", "awq", "--group-size", "32", "--calibration", "nothing.txt"], "nothing.txt cannot be read"),
    (["--method", "awq", "--group-size", "32", "--calibration", "SHORT"], "at least 512 are needed"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    options: list[str], says: str, tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("def f(): pass\n")
    options = [str(short) if option == "SHORT" else option for option in options]
    assert quantize(small_model, tmp_path / "model", *options) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("options", ["--method magic", "--bits 3", "--search best", "--symmetric --asymmetric"])
def test_unknown_options_end_with_two(options: str, tmp_path: Path, small_model: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        quantize(small_model, tmp_path / "model", *options.split())
    assert ended.value.code == 2


def test_a_directory_with_something_in_it_is_left_alone(
    tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert quantize(small_model, tmp_path, "--method", "int8") == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_disk_that_takes_nothing_more_is_named(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert quantize(small_model, tmp_path / "file" / "model", "--method", "int8") == 2
    assert "model cannot be written: " in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("workers.quantization.unfinished_model.save_file", full_disk)
        assert quantize(small_model, tmp_path / "model", "--method", "int8") == 2
    assert "No space left on device; what is finished is kept" in capsys.readouterr().err
    assert quantize(small_model, tmp_path / "model", "--method", "int8") == 0


def full_disk(*arguments: object, **options: object) -> None:
    raise OSError("No space left on device")


def test_what_is_quantised_already_is_refused(
    tmp_path: Path, model_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(model_copy / "config.json", quantization_config={"quant_method": "compressed-tensors"})
    assert quantize(model_copy, tmp_path / "model", "--method", "int8") == 2
    assert "is quantised already" in capsys.readouterr().err
    assert json.loads((model_copy / "config.json").read_text())["quantization_config"]
