"""The manifest: what it says, and that nothing that decides tokens can change under it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.models.spec import ModelError
from workers.weights.manifest import (
    MANIFEST_FILE,
    Calibration,
    Making,
    read_manifest,
    verify_manifest,
    write_manifest,
)

MAKING = Making("gptq", {"bits": 4, "group_size": 128}, Calibration("ab" * 32, 1000, 300))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "README.md").write_text("a model")
    write_manifest(tmp_path, MAKING)
    return tmp_path


def test_it_says_how_the_weights_were_made_and_names_every_other_file(model: Path) -> None:
    manifest = read_manifest(model)
    assert manifest is not None
    assert manifest.making == MAKING
    assert set(manifest.files) == {"config.json", "model.safetensors", "README.md"}
    assert set(json.loads((model / MANIFEST_FILE).read_text())) == {
        "version",
        "files",
        "method",
        "options",
        "calibration",
    }
    verify_manifest(model)


def test_written_twice_it_is_the_same(model: Path) -> None:
    before = (model / MANIFEST_FILE).read_bytes()
    write_manifest(model, MAKING)
    assert (model / MANIFEST_FILE).read_bytes() == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 256 * 8 - 1))
def test_one_flipped_bit_is_found_and_its_file_named(model: Path, bit: int) -> None:
    path = model / "model.safetensors"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bad)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged.*Fetch it again"):
        verify_manifest(model)
    path.write_bytes(good)
    verify_manifest(model)


def test_a_missing_file_is_named(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing, but manifest\.json has it"):
        verify_manifest(model)


@pytest.mark.parametrize("name", ["generation_config.json", "other.safetensors", "chat_template.jinja"])
def test_a_file_that_came_later_and_decides_tokens_is_refused(model: Path, name: str) -> None:
    (model / name).write_text("{}")
    with pytest.raises(ModelError, match=f"{name} is not in manifest.json"):
        verify_manifest(model)


def test_a_note_beside_the_model_may_come_later_or_change(model: Path) -> None:
    (model / "notes.txt").write_text("good")
    (model / "README.md").write_text("a good model")
    verify_manifest(model)


def test_where_there_is_none_nothing_is_verified(model: Path) -> None:
    (model / MANIFEST_FILE).unlink()
    assert read_manifest(model) is None
    verify_manifest(model)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '"text"',
        "[" * 100_000,
        '{"version": 2, "files": {}, "method": "rtn", "options": {}, "calibration": null}',
        '{"version": 1, "files": [1], "method": "rtn", "options": {}, "calibration": null}',
        '{"version": 1, "files": {"../x": "00"}, "method": "rtn", "options": {}, "calibration": null}',
        '{"version": 1, "files": {"x": 0}, "method": "rtn", "options": {}, "calibration": null}',
        '{"version": 1, "files": {}, "method": "rtn", "options": {}, "calibration": {"md5": ""}}',
        '{"version": 1, "files": {}, "method": "rtn", "options": {}}',
    ],
)
def test_another_file_of_this_name_is_refused(model: Path, content: str) -> None:
    (model / MANIFEST_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"manifest\.json is no manifest that raydix writes"):
        verify_manifest(model)
