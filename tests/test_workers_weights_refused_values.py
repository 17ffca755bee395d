"""Values, configurations and disks that no model can be served from: each refused by name."""

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from tests.helpers import Tensors, edit_json, edit_tensors, small_engine
from tests.tiny_checkpoint import K_PROJ, NORM, SINGLE, save_tiny
from workers.config import engine_config
from workers.engine.build import build_engine, kv_namespace, max_sequence_len
from workers.models.spec import ModelError, read_model_spec
from workers.models.tensor_shapes import EMBEDDING, HEAD
from workers.weights.model_dir import resolve_model_dir

LAYER_NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", attention_bias=True)


def refused(model_dir: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_engine(model_dir, engine_config(group_size=16, device="cpu"))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (NORM, {3: math.nan}, r"1 values that are NaN or infinity, the first at \[3\]"),
        (LAYER_NORM, {0: math.inf, 15: -math.inf}, r"2 values that are NaN or infinity, the first at \[0\]"),
        (
            K_PROJ,
            {17: math.nan, 18: math.inf, 40: math.nan},
            r"3 values that are NaN or infinity, the first at \[1, 1\]",
        ),
        (EMBEDDING, {5: -math.inf}, r"1 values that are NaN or infinity, the first at \[0, 5\]"),
        (K_PROJ.replace("weight", "bias"), {2: math.nan}, r"1 values that are NaN or infinity, the first at \[2\]"),
    ],
)
def test_values_that_are_no_numbers_are_counted(tiny: Path, name: str, values: dict[int, float], said: str) -> None:
    """C19, C21."""

    def spoil(tensors: Tensors) -> None:
        for place, value in values.items():
            tensors[name].view(-1)[place] = value

    edit_tensors(tiny, spoil)
    refused(tiny, rf"{SINGLE}: {name} holds {said}; the checkpoint is damaged: download it again")


@pytest.mark.parametrize("name", [NORM, K_PROJ, EMBEDDING, HEAD])
def test_a_tensor_of_zeros_is_named(tiny: Path, name: str) -> None:
    """C20, C22: a download that was given its length and then broke off looks like this."""
    edit_tensors(tiny, lambda tensors: tensors[name].zero_())
    refused(tiny, rf"{SINGLE}: {name} holds nothing but zeros; the checkpoint is damaged: download it again")


def test_a_bias_may_be_zero(tiny: Path) -> None:
    edit_tensors(tiny, lambda tensors: tensors[K_PROJ.replace("weight", "bias")].zero_())
    small_engine(tiny)


@pytest.mark.parametrize(
    ("tied", "edit", "message"),
    [
        (
            True,
            lambda tensors: None,
            r"ties the embeddings, but lm_head\.weight is not model\.embed_tokens\.weight; set",
        ),
        (False, lambda tensors: tensors.pop(HEAD), r"lacks lm_head\.weight.*set tie_word_embeddings to true where"),
    ],
)
def test_a_head_that_is_not_tied_as_it_is_said_is_refused(
    tiny: Path, tied: bool, edit: Callable[[Tensors], object], message: str
) -> None:
    """C31."""
    edit_json(tiny / "config.json", tie_word_embeddings=tied)
    edit_tensors(tiny, edit)
    refused(tiny, message)


ABSURD: list[tuple[dict[str, object], str]] = [
    ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be an integer from 1"),
    ({"num_key_value_heads": 3}, "2 heads cannot share 3 key-value heads"),
    ({"rope_theta": math.nan}, "rope_theta is nan"),
    ({"rope_theta": -1}, "rope_theta is -1"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000; it must be an integer from 1 to"),
    ({"num_hidden_layers": 2**22}, "lacks model.layers.2.input_layernorm.weight|weights take .* GiB"),
    ({"hidden_size": 2**22}, "weights take .* GiB as they would be served|is torch.bfloat16"),
    ({"hidden_size": -16}, "hidden_size is -16"),
    ({"vocab_size": "32"}, "vocab_size is '32'"),
    ({"num_hidden_layers": 1}, "have no place in the model that config.json describes"),
    (
        {"head_dim": 2**22, "num_attention_heads": 1, "num_key_value_heads": 1},
        r"is torch.bfloat16 \[\d+, 16\], expected",
    ),
]


@pytest.mark.parametrize(("changes", "message"), ABSURD, ids=str)
def test_an_absurd_configuration_is_refused(tiny: Path, changes: dict[str, object], message: str) -> None:
    """C32."""
    edit_json(tiny / "config.json", **changes)
    refused(tiny, message)


def test_a_pool_that_holds_no_block_is_an_error_of_the_model(tiny: Path) -> None:
    """C32: the model is sound, its KV is too large for the memory that it is given."""
    config = engine_config(memory_bytes=100, group_size=16, device="cpu")
    with pytest.raises(ModelError, match="a KV pool of 100 bytes holds no block"):
        build_engine(tiny, config)
    with pytest.raises(ModelError, match="a KV pool of 100 bytes holds no block"):
        max_sequence_len(read_model_spec(tiny), config)


def test_tensor_parallelism_cannot_be_asked_for() -> None:
    """C33: a worker has one device, so there is nothing that would have to divide the heads."""
    with pytest.raises(TypeError, match="no such engine option: tensor_parallel_size"):
        engine_config(tensor_parallel_size=2)


def test_a_worker_with_another_file_shares_no_kv(tiny: Path) -> None:
    """C35. What happens to its KV then: `test_two_models_of_one_name_share_nothing`."""
    config = engine_config(group_size=16, device="cpu")
    before = build_engine(tiny, config)
    assert build_engine(tiny, config).layout_id == before.layout_id
    edit_tensors(tiny, lambda tensors: tensors[K_PROJ].neg_())
    after = build_engine(tiny, config)
    assert after.layout_id != before.layout_id
    assert after.layout_id.startswith(kv_namespace(tiny, config.weights, 16))


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("call", ["open", "preadv", "stat"])
def test_a_disk_that_fails_is_an_error_with_the_file_s_name(
    tiny: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C36. A superuser may read everything, so the system calls themselves are made to fail."""

    def fail(*args: object, **kwargs: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ModelError, match=rf"config\.json cannot be read: {os.strerror(code)}"):
        build_engine(tiny, engine_config(group_size=16, device="cpu"))


def test_a_disk_that_fails_in_the_middle_of_a_tensor_is_an_error(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C36."""
    preadv, spoilt = os.preadv, 32 * 16 * 2

    def fail(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if len(buffers[0]) == spoilt:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", fail)
    refused(tiny, rf"{SINGLE} cannot be read: Input/output error")


@pytest.mark.parametrize("call", ["lstat", "listdir"])
def test_a_directory_that_cannot_be_looked_at_is_an_error(
    tiny: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C36: beside a configuration that can be read."""

    def fail(*args: object, **kwargs: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    refused(tiny, r"(generation_config\.json cannot be looked at|cannot be listed|cannot be read): Input/output error")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "x" * 5000, "a/" * 3000])
def test_a_place_that_cannot_be_is_an_error(name: str) -> None:
    with pytest.raises(ModelError, match="cannot be looked for: "):
        resolve_model_dir(name)


def test_a_full_disk_ends_a_download_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """C36."""

    def full(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(ModelError, match=r"somebody/something cannot be downloaded: .*No space left on device"):
        resolve_model_dir("somebody/something")
