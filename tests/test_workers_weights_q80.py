"""llama2.c's int8 files: written and read as their definition says, and the same logits come out."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.cli import main
from tests.families import save_random_model
from tests.helpers import generate, load_weights, request_of, small_engine
from tests.parity import LogitsRecorder, generate_reference, load_reference
from workers.config import WeightConfig
from workers.engine.build import check_model
from workers.models.spec import ModelError
from workers.tokenizer import Tokenizer
from workers.weights.model_digest import model_digest
from workers.weights.model_dir import TINY_MODEL, resolve_model_dir
from workers.weights.open_checkpoint import open_checkpoint, read_spec
from workers.weights.q80_export import export_q80

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def export(source: Path, target: Path) -> Path:
    spec, checkpoint = check_model(source)
    return export_q80(source, checkpoint, spec, target)


@pytest.fixture(scope="module")
def exported(untied_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a file. Do not write to it."""
    return export(untied_dir, tmp_path_factory.mktemp("q80") / "model")


def logits_of(path: Path, **options: str) -> torch.Tensor:
    built = small_engine(path, **options)  # type: ignore[arg-type]
    recorder = LogitsRecorder(built)
    generate(built.engine, [request_of("r", PROMPT, 1)])
    return recorder.rows["r"][0]


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """What is left of a matrix in int8, each 64 values by a scale of their own."""
    groups = weight.reshape(-1, 64)
    scales = groups.abs().amax(1, keepdim=True) / 127
    return ((groups / scales).round() * scales).view(weight.shape)


@pytest.mark.parametrize("tied", [False, True])
def test_it_reads_back_to_the_same_logits(untied_dir: Path, tied_dir: Path, tmp_path: Path, tied: bool) -> None:
    """Those of Transformers with the rounded matrices, to 1e-4 of the largest; int8 is not packed to int4."""
    source = tied_dir if tied else untied_dir
    path = export(source, tmp_path / "model")
    floats = Path(shutil.copytree(source, tmp_path / "floats"))
    tensors = load_file(source / "model.safetensors")
    for name, weight in tensors.items():
        if name.endswith("_proj.weight") or name == "lm_head.weight":
            tensors[name] = rounded(weight)
    save_file(tensors, floats / "model.safetensors")
    expected = generate_reference(load_reference(floats), [PROMPT], 1)[0][1][0]
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(logits_of(path), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(logits_of(path, quantization="int4"), expected, rtol=0, atol=tolerance)


def test_a_file_written_by_its_definition_is_read(tmp_path: Path) -> None:
    """Byte by byte, after llama2.c's export: one layer, two heads of 4 that share one of keys, groups of 4."""
    header = struct.pack("<8i", 8, 4, 1, 2, 1, -3, 16, 4)
    shapes = {"wq": (8, 8), "wk": (4, 8), "wv": (4, 8), "wo": (8, 8), "w1": (4, 8), "w2": (8, 4), "w3": (4, 8)}
    shapes["head"] = (3, 8)
    random = np.random.default_rng(0)
    values = {name: random.integers(-127, 128, shape, np.int8) for name, shape in shapes.items()}
    scales = {name: random.uniform(0.1, 1, (np.prod(shape) // 4,)).astype("<f4") for name, shape in shapes.items()}
    floats = [random.normal(size=size).astype("<f4") for size in ((3, 8), (8,), (8,), (8,))]
    path = tmp_path / "m.bin"
    body = b"".join(values[name].tobytes() + scales[name].tobytes() for name in shapes)
    path.write_bytes(header + body + b"".join(tensor.tobytes() for tensor in floats))
    source, layer = open_checkpoint(path, read_spec(path)), "model.layers.0"
    expected = {name: values[name] * scales[name].repeat(4).reshape(shape) for name, shape in shapes.items()}
    halves = [0, 2, 1, 3]  # of one head: pairs (0, 1) and (2, 3) become halves (0, 2) and (1, 3)
    found = {
        "self_attn.q_proj": expected["wq"][[*halves, *(row + 4 for row in halves)]],
        "self_attn.k_proj": expected["wk"][halves],
        "self_attn.v_proj": expected["wv"],
        "self_attn.o_proj": expected["wo"],
        "mlp.gate_proj": expected["w1"],
        "mlp.down_proj": expected["w2"],
        "mlp.up_proj": expected["w3"],
    }
    for name, matrix in found.items():
        assert torch.equal(source.read(f"{layer}.{name}.weight", matrix.shape), torch.from_numpy(matrix)), name
    assert torch.equal(source.read("lm_head.weight", (3, 8)), torch.from_numpy(expected["head"]))
    names = [
        "model.embed_tokens.weight",
        f"{layer}.input_layernorm.weight",
        f"{layer}.post_attention_layernorm.weight",
        "model.norm.weight",
    ]
    for name, tensor in zip(names, floats, strict=True):
        assert torch.equal(source.read(name, tensor.shape), torch.from_numpy(tensor)), name


def test_without_a_configuration_it_is_what_llama2_c_would_compute(exported: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(exported, tmp_path / "alone.bin"))
    spec, beside = read_spec(alone), read_spec(exported)
    assert (spec.rms_norm_eps, spec.rope.theta) == (1e-5, 10000.0)
    assert (spec.hidden_size, spec.num_kv_heads, spec.head_dim, spec.vocab_size, spec.max_model_len) == (
        beside.hidden_size, beside.num_kv_heads, beside.head_dim, beside.vocab_size, beside.max_model_len,
    )  # fmt: skip
    assert not spec.tie_word_embeddings


def test_a_group_of_zeros_stays_one(untied_dir: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(untied_dir, tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3] = 0.0
    save_file(tensors, source / "model.safetensors")
    path = export(source, tmp_path / "model")
    up = open_checkpoint(path, read_spec(path)).read("model.layers.0.mlp.up_proj.weight", (128, 64))
    assert not up[3].any()
    assert up[4].any()


def test_the_command_exports_and_the_file_is_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "tiny"
    assert main(["export", str(TINY_MODEL), str(target), "--format", "q80"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert resolve_model_dir(str(path)) == path
    assert Tokenizer(path).encode("Once upon") == Tokenizer(TINY_MODEL).encode("Once upon")
    assert sorted(file.name for file in target.iterdir()) == [
        "chat_template.jinja", "config.json", "model_q80.bin", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert main(["export", str(TINY_MODEL), str(target), "--format", "q80"]) == 2
    assert "cannot be made: File exists; name one" in capsys.readouterr().err


def test_the_digest_is_of_the_file_and_those_beside_it(exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported.parent, tmp_path / "copy")) / exported.name
    seen = {model_digest(path)}
    for name in (path.name, "config.json"):
        file = path.parent / name
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        seen.add(model_digest(path))
    assert len(seen) == 3


DAMAGES: list[tuple[str, Callable[[bytearray], object], str]] = [
    ("empty", lambda data: data.clear(), "no llama2.c file of version 3"),
    ("pickle", lambda data: data.__setitem__(slice(0, 8), b"PK\x03\x04\x00\x00\x08\x08"), "Pickled checkpoints are"),
    ("shorter", lambda data: data.pop(), r"it has \d+ bytes, and its header asks for others"),
    ("longer", lambda data: data.append(0), r"it has \d+ bytes, and its header asks for others"),
    ("heads", lambda data: data.__setitem__(slice(12, 16), struct.pack("<i", 3)), "3 heads and 2 key-value heads do"),
    ("zero", lambda data: data.__setitem__(slice(28, 32), bytes(4)), r"its header is \[64, 128, 2, 4, 2, -256, 512, 0"),
    ("negative", lambda data: data.__setitem__(slice(0, 4), struct.pack("<i", -64)), r"its header is \[-64"),
    ("layers", lambda data: data.__setitem__(slice(8, 12), struct.pack("<i", 2**22)), "its header asks for others"),
    ("scale", lambda data: data.__setitem__(slice(32 + 4096, 36 + 4096), b"\0\0\xc0\x7f"), "q_proj.* has scales that"),
    ("norm", lambda data: data.__setitem__(slice(-4, None), b"\0\0\xc0\x7f"), r"model\.norm\.weight holds 1 values"),
    ("other", lambda data: data.__setitem__(slice(24, 28), struct.pack("<i", 99)), "is another model's than config"),
]


@pytest.mark.parametrize(("edit", "message"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_a_damaged_file_is_named(
    exported: Path, tmp_path: Path, edit: Callable[[bytearray], object], message: str
) -> None:
    path = Path(shutil.copytree(exported.parent, tmp_path / "copy")) / exported.name
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"model_q80\.bin.*{message}"):
        load_weights(path, WeightConfig())


@pytest.mark.parametrize("variant", ["llama-biases", "qwen2", "mistral-window", "qwen3"])
def test_a_model_that_the_format_cannot_hold_is_refused(tmp_path: Path, variant: str) -> None:
    source = save_random_model(tmp_path / "source", variant)
    with pytest.raises(ModelError, match="holds plain Llamas only"):
        export(source, tmp_path / "model")


def test_sizes_that_do_not_fit_the_groups_are_refused(tmp_path: Path) -> None:
    source = save_random_model(tmp_path / "source", "llama")
    assert json.loads((source / "config.json").read_text("utf-8"))["intermediate_size"] == 96
    with pytest.raises(ModelError, match="groups of 64 do not tile rows of 64 and 96"):
        export(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()
