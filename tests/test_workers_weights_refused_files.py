"""Files that are not a checkpoint, or not all of it: each is refused by name, from its header, before it is loaded."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_checkpoint import (
    INDEX,
    NORM,
    SHARDS,
    SINGLE,
    num_bytes,
    save_tiny,
    save_tiny_in_shards,
    write_index,
)
from workers.models.spec import ModelError, read_model_spec
from workers.weights.checkpoint import Checkpoint, check_tensors


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_tiny_in_shards(tmp_path / "model")


def check(model_dir: Path) -> None:
    """All that is done before a tensor is read."""
    check_tensors(Checkpoint(model_dir), read_model_spec(model_dir))


def refused(model_dir: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check(model_dir)


def file_of(sharded: Path) -> dict[str, str]:
    return {name: shard for shard in SHARDS for name in load_file(sharded / shard)}


def test_what_is_damaged_below_is_whole_before(tiny: Path, tmp_path: Path) -> None:
    check(tiny)
    check(save_tiny_in_shards(tmp_path / "sharded"))


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0, "it has 0 bytes, too few for a safetensors header"),
        (7, "it has 7 bytes, too few"),
        (500, r"its header is said to have \d+ bytes, but the whole file has 500"),
        (-50, r"its tensors end at byte \d+, but the file has \d+"),
    ],
    ids=["nothing", "seven bytes", "in the header", "in the tensors"],
)
def test_a_truncated_shard_is_named(sharded: Path, length: int, message: str) -> None:
    """C01 to C04."""
    path = sharded / SHARDS[1]
    path.write_bytes(path.read_bytes()[:length])
    refused(sharded, rf"{SHARDS[1]} is damaged: {message}")


def test_a_file_that_shrinks_after_it_was_opened_is_an_error_not_a_crash(tiny: Path) -> None:
    """C04. Were it mapped into memory, reading it would end this process."""
    checkpoint = Checkpoint(tiny)
    os.truncate(tiny / SINGLE, 4096)
    with pytest.raises(ModelError, match=rf"{SINGLE} was changed while it was read"):
        checkpoint.read(NORM, (16,))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C04, between the look at the file and the reading of it."""
    checkpoint, fstat = Checkpoint(tiny), os.fstat

    def then_truncate(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        os.truncate(tiny / SINGLE, 4096)
        return status

    monkeypatch.setattr(os, "fstat", then_truncate)
    last = max(checkpoint.tensors.values(), key=lambda tensor: tensor.offset)
    with pytest.raises(ModelError, match=rf"{SINGLE} was changed while it was read"):
        last.read()


def test_a_missing_shard_is_named(sharded: Path) -> None:
    """C05."""
    (sharded / SHARDS[0]).unlink()
    refused(sharded, rf"{SHARDS[0]} cannot be read: No such file")


@pytest.mark.parametrize("name", ["model-00003-of-00003.safetensors", SINGLE])
def test_a_shard_that_the_index_does_not_know_is_named(sharded: Path, name: str) -> None:
    """C06."""
    save_file({"x": torch.ones(1)}, sharded / name)
    refused(sharded, rf"{name} is not among the checkpoint's files; remove it")


@pytest.mark.parametrize("name", ["consolidated.safetensors", "model.fp16.safetensors", "adapter_model.safetensors"])
def test_other_weights_beside_a_checkpoint_are_left_alone(tiny: Path, name: str) -> None:
    """Mistral's own format lies beside Hugging Face's in its repositories, and half-size copies in others."""
    (tiny / name).write_bytes(b"")
    check(tiny)


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    """C07."""
    tensors = load_file(sharded / SHARDS[1])
    del tensors[NORM]
    save_file(tensors, sharded / SHARDS[1])
    refused(sharded, rf"{INDEX}: {NORM} is said to be in {SHARDS[1]}, which lacks it")


@pytest.mark.parametrize("known", [True, False])
def test_a_tensor_that_the_index_does_not_have_there_is_named(sharded: Path, known: bool) -> None:
    """C08, and C09: the same tensor in two shards."""
    name = NORM if known else "extra"
    save_file(load_file(sharded / SHARDS[0]) | {name: torch.ones(16)}, sharded / SHARDS[0])
    said = SHARDS[1] if known else "no file"
    refused(sharded, rf"{INDEX}: {name} is in {SHARDS[0]}, but said to be in {said}")


def test_a_tensor_twice_in_one_header_is_named(tiny: Path) -> None:
    """C09. The library takes one of the two silently."""
    data = (tiny / SINGLE).read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip()
    twice = header[:-1] + b',"model.norm.weight":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}'
    (tiny / SINGLE).write_bytes(len(twice).to_bytes(8, "little") + twice + data[8 + len(header) :])
    refused(tiny, f"{SINGLE} is damaged: '{NORM}' is there twice")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {}}',
        "\x00",
        "[" * 100_000,
        '{"weight_map": {"a": 1, "a": 2}}',
    ],
)
def test_an_index_that_is_none_is_named(sharded: Path, text: str) -> None:
    """C10."""
    (sharded / INDEX).write_text(text, "utf-8")
    refused(sharded, r"index\.json is not a safetensors index")


@pytest.mark.parametrize("wrong", [1, -1, 1e300])
def test_a_total_size_that_is_wrong_is_told_with_the_right_one(sharded: Path, wrong: float) -> None:
    """C11."""
    right = num_bytes({name: tensor for shard in SHARDS for name, tensor in load_file(sharded / shard).items()})
    for total_size in (right, float(right)):
        write_index(sharded, file_of(sharded), total_size)
        check(sharded)
    write_index(sharded, file_of(sharded), right + wrong)
    refused(sharded, rf"index\.json: total_size is \d+, but the tensors have {right} bytes")


@pytest.mark.parametrize(
    "where", ["../x.safetensors", "/etc/passwd", "a/../../b.safetensors", "..", "", ".", "a\x00.safetensors", 5, None]
)
def test_an_index_stays_inside_its_directory(sharded: Path, where: object) -> None:
    """C12, C13, C15."""
    write_index(sharded, file_of(sharded) | {NORM: where}, None)
    refused(
        sharded, rf"{NORM} is said to be in .*, which is not a safetensors file of this|cannot be read: embedded null"
    )


def test_a_link_out_of_the_directory_is_refused(sharded: Path, tmp_path: Path) -> None:
    """C14."""
    (sharded / SHARDS[0]).rename(tmp_path / "elsewhere.safetensors")
    (sharded / SHARDS[0]).symlink_to(tmp_path / "elsewhere.safetensors")
    refused(sharded, rf"{SHARDS[0]} is a link that leaves its model directory .*elsewhere")


def test_a_link_that_leads_nowhere_is_refused(tiny: Path) -> None:
    """C14."""
    (tiny / "config.json").unlink()
    (tiny / "config.json").symlink_to("config.json")
    refused(tiny, r"config\.json cannot be read: Too many levels of symbolic links")


def test_a_link_that_leads_nowhere_is_not_passed_over(tiny: Path) -> None:
    """C14: half a download of the Hub's. Without this file the model would not know where to end."""
    (tiny / "generation_config.json").symlink_to("../../blobs/none")
    refused(tiny, r"generation_config\.json cannot be read: No such file")


def test_links_into_the_blobs_of_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    """C14: that is how every model of the Hub's cache lies there."""
    repository = tmp_path / "models--somebody--something"
    snapshot, blobs = repository / "snapshots" / "0123abcd", repository / "blobs"
    save_tiny_in_shards(tmp_path / "model")
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate((tmp_path / "model").iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    check(snapshot)
    save_file({"x": torch.ones(1)}, repository / "outside.safetensors")
    (snapshot / SHARDS[0]).unlink()
    (snapshot / SHARDS[0]).symlink_to("../../outside.safetensors")
    refused(snapshot, rf"{SHARDS[0]} is a link that leaves its model directory")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", SINGLE, INDEX])
def test_a_pipe_does_not_hang_its_reader(tiny: Path, name: str) -> None:
    """C15."""
    (tiny / name).unlink(missing_ok=True)
    os.mkfifo(tiny / name)
    refused(tiny, rf"{name} is no regular file")


def test_a_file_that_becomes_a_pipe_does_not_hang_its_reader(tiny: Path) -> None:
    """C15, between finding it and opening it."""
    checkpoint = Checkpoint(tiny)
    (tiny / SINGLE).unlink()
    os.mkfifo(tiny / SINGLE)
    with pytest.raises(ModelError, match=rf"{SINGLE} was changed"):
        checkpoint.read(NORM, (16,))


def test_a_device_is_refused(tiny: Path) -> None:
    """C15. Behind a link it is outside the directory as well."""
    (tiny / SINGLE).unlink()
    (tiny / SINGLE).symlink_to("/dev/zero")
    refused(tiny, SINGLE)
