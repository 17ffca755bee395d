"""Checkpoints: what is read, how it is packed, and what is refused with which words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

from tests.helpers import (
    Tensors,
    edit_tensors,
    generate,
    load_weights,
    request_of,
    save_random_llama,
    small_engine,
)
from workers.config import WeightConfig
from workers.models.decoder import DecoderWeights
from workers.models.spec import ModelError
from workers.weights.model_digest import model_digest
from workers.weights.model_dir import resolve_model_dir

PLAIN = WeightConfig(quantization="none", dtype="float32")
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ATTENTION = "model.layers.0.self_attn"


def load(model_dir: Path, config: WeightConfig = PLAIN) -> DecoderWeights:
    return load_weights(model_dir, config)


def test_a_sharded_checkpoint_is_the_same_model(untied_dir: Path, tmp_path: Path) -> None:
    sharded = save_random_llama(tmp_path, num_layers=2, tied=False, shard_size="100KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    request = request_of("r", [1, 2, 3], 30)
    outputs = [generate(small_engine(model_dir).engine, [request]) for model_dir in (untied_dir, sharded)]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("self_attn", "q_proj k_proj v_proj"),
        ("self_attn", "o_proj"),
        ("mlp", "gate_proj up_proj"),
        ("mlp", "down_proj"),
    ],
)
def test_a_packed_matrix_computes_its_shards_in_order(untied_dir: Path, name: str, module: str) -> None:
    tensors, layer = load_file(untied_dir / "model.safetensors"), load(untied_dir).layers[1]
    shards = [tensors[f"model.layers.1.{name}.{shard}.weight"] for shard in module.split()]
    packed = {"q": layer.qkv_proj, "o": layer.o_proj, "g": layer.gate_up_proj, "d": layer.down_proj}[module[0]]
    size = shards[0].shape[1]
    x = torch.randn(5, 2 * size if module == "down_proj" else size)
    rows = {
        "q": lambda: F.rms_norm(x, (size,), tensors["model.layers.1.input_layernorm.weight"], 1e-6),
        "o": lambda: x,
        "g": lambda: F.rms_norm(x, (size,), tensors["model.layers.1.post_attention_layernorm.weight"], 1e-6),
        "d": lambda: F.silu(x[:, :size]) * x[:, size:],
    }[module[0]]()
    torch.testing.assert_close(packed(x), torch.cat([rows @ shard.T for shard in shards], dim=1))


def test_frequencies_in_old_checkpoints_are_not_read(model_copy: Path) -> None:
    """Old Llama checkpoints store them; they follow from config.json."""
    names = [f"{ATTENTION}.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
    edit_tensors(model_copy, lambda tensors: tensors.update({name: torch.full((8,), 9.0) for name in names}))
    load(model_copy)


def test_a_tied_head_may_be_stored_but_must_be_the_embedding(tied_dir: Path, tmp_path: Path) -> None:
    model_dir = Path(shutil.copytree(tied_dir, tmp_path / "model"))
    edit_tensors(model_dir, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    x = torch.randn(3, 64)
    assert torch.equal(load(model_dir).lm_head(x), load(tied_dir).lm_head(x))
    edit_tensors(model_dir, lambda tensors: tensors[HEAD][3, 5].add_(1.0))
    with pytest.raises(ModelError, match=r"ties the embeddings, but lm_head\.weight is not"):
        load(model_dir)


def test_int4_weights_are_the_checkpoint_within_half_a_level(untied_dir: Path) -> None:
    plain, packed = load(untied_dir), load(untied_dir, WeightConfig(dtype="float32"))
    identity = torch.eye(64)
    exact, rounded = (weights.layers[0].o_proj(identity).T for weights in (plain, packed))
    groups = exact.reshape(-1, 2, 32)
    level = (groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)) / 15
    assert ((exact - rounded).reshape(-1, 2, 32).abs() <= level[..., None] * 1.01).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop(Q_PROJ), f"lacks {Q_PROJ}"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "no place in the model .*: .'extra'"),
        (
            lambda tensors: tensors.update({Q_PROJ: torch.ones(64, 63)}),
            rf"{Q_PROJ} is .*\[64, 63\], expected floats \[64, 64\]",
        ),
        (lambda tensors: tensors.update({Q_PROJ: torch.ones(64, 64, dtype=torch.int8)}), f"{Q_PROJ} is torch.int8"),
    ],
    ids=["missing", "extra", "shape", "integers"],
)
def test_a_wrong_tensor_is_named(model_copy: Path, edit: Callable[[Tensors], object], message: str) -> None:
    edit_tensors(model_copy, edit)
    with pytest.raises(ModelError, match=message):
        load(model_copy)


@pytest.mark.parametrize("quantization", ["int4", "none"])
@pytest.mark.parametrize("name", [Q_PROJ, "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(
    model_copy: Path, quantization: Literal["int4", "none"], name: str, value: float
) -> None:
    edit_tensors(model_copy, lambda tensors: tensors[name].view(-1)[3].fill_(value))
    with pytest.raises(ModelError, match=name.removesuffix(".q_proj.weight")):
        load(model_copy, WeightConfig(quantization=quantization))


def test_a_group_size_that_does_not_fit_names_the_module(untied_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.qkv_proj: group_size 48 does not fit"):
        load(untied_dir, WeightConfig(group_size=48))


def test_a_truncated_file_is_named(model_copy: Path) -> None:
    path = model_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: its tensors end at byte"):
        load(model_copy)


def test_pickled_checkpoints_are_never_opened(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors is missing.*Only safetensors"):
        load(model_copy)


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "sub/x", 5, None])
def test_an_index_stays_inside_its_directory(model_copy: Path, file: object) -> None:
    index = model_copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {Q_PROJ: file}}), "utf-8")
    with pytest.raises(ModelError, match=rf"index\.json: {Q_PROJ} is said to be in .*not a safetensors file of this"):
        load(model_copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "\x00"])
def test_an_index_that_is_none_is_named(model_copy: Path, text: str) -> None:
    (model_copy / "model.safetensors.index.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=r"index\.json is not a safetensors index"):
        load(model_copy)


def test_the_digest_changes_with_every_byte_that_matters(model_copy: Path) -> None:
    seen = {model_digest(model_copy)}
    for file in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        path = model_copy / file
        data = path.read_bytes() if path.exists() else b"x"
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        seen.add(model_digest(model_copy))
    assert len(seen) == 5
    (model_copy / "README.md").write_text("no token depends on this", "utf-8")
    assert model_digest(model_copy) in seen


def test_a_directory_is_taken_as_it_is(untied_dir: Path) -> None:
    assert resolve_model_dir(str(untied_dir)) == untied_dir.resolve()


def test_a_model_that_is_nowhere_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("no network, nothing cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"nobody/nothing is no directory here.*nothing cached"):
        resolve_model_dir("nobody/nothing")


def test_a_name_that_is_no_hub_id_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="no directory here"):
        resolve_model_dir("./no/such/../directory at all")
