"""The keys file: what it may hold, and that it is read again when it changes."""

import hashlib
import logging
import os
from pathlib import Path

import pytest
import yaml

from cluster.access.key_file import KeyFile
from cluster.access.tenants import TenantEntry, read_tenants
from cluster.cli import main
from cluster.section import ConfigError

ALICE, BOB = "rdx-alice's key", "rdx-bob's schlüssel"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(path: Path, *entries: tuple[str, list[str]]) -> None:
    """Put a file in its place as kubelet does: at once, under another inode."""
    fresh = path.with_suffix(".new")
    fresh.write_text(
        yaml.safe_dump([{"tenant": name, "keys": [digest(key) for key in keys]} for name, keys in entries])
    )
    fresh.rename(path)


def owner(file: KeyFile, key: str) -> str | None:
    found = file.owner_of(key.encode())
    return None if found is None else found.tenant


def test_each_key_is_its_tenants(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    write(path, ("alice", [ALICE, "second"]), ("bob", [BOB]))
    file = KeyFile(path)
    assert [owner(file, key) for key in (ALICE, "second", BOB)] == ["alice", "alice", "bob"]
    assert [owner(file, key) for key in ("", "x", digest(ALICE), ALICE + " ")] == [None] * 4
    assert file.owner_of(b"\xff\xfe") is None


def test_limits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f'- {{tenant: a, keys: ["{digest("k")}"], requests_per_minute: 5, concurrent_requests: 2}}')
    (entry,) = read_tenants(path).entries
    assert (entry.requests_per_minute, entry.tokens_per_minute, entry.concurrent_requests) == (5, None, 2)


def test_an_empty_list_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("[]")
    assert owner(KeyFile(path), ALICE) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be a list"),
        ("{", "cannot be read"),
        ("alice: x", "must be a list"),
        ("- {tenant: a, keys: []}", "0.keys: List should have at least 1"),
        ("- {tenant: a, keys: [rdx-plain-key]}", "0.keys.0: String should match"),
        ("- {tenant: 'a b', keys: ['" + "0" * 64 + "']}", "0.tenant"),
        ("- {tenant: a, keys: ['" + "0" * 64 + "'], rate: 5}", "0.rate: Extra inputs"),
        ("- {tenant: a, keys: ['" + "0" * 64 + "'], tokens_per_minute: 0}", "0.tokens_per_minute"),
        (f"- {{tenant: a, keys: ['{'0' * 64}']}}\n- {{tenant: a, keys: ['{'1' * 64}']}}", "tenant a stands twice"),
        (f"- {{tenant: a, keys: ['{'0' * 64}']}}\n- {{tenant: b, keys: ['{'0' * 64}']}}", "a key stands twice"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.yaml") as refused:
        KeyFile(path)
    assert says in str(refused.value)
    assert "rdx-plain-key" not in str(refused.value), "a key that was put there by mistake is not for logs"


def test_a_changed_file_counts_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    write(path, ("alice", [ALICE]))
    file = KeyFile(path)
    write(path, ("bob", [BOB]))
    assert owner(file, ALICE) == "alice"
    file.refresh()
    assert (owner(file, ALICE), owner(file, BOB)) == (None, "bob")


@pytest.mark.parametrize("broken", ["", "- {tenant: alice", "[1]", None])
def test_a_file_that_breaks_keeps_the_keys_and_says_so_once(
    tmp_path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    write(path, ("alice", [ALICE]))
    file = KeyFile(path)
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    with caplog.at_level(logging.ERROR, "ray.serve"):
        file.refresh()
        file.refresh()
    assert owner(file, ALICE) == "alice"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "stay in force" in caplog.text
    write(path, ("bob", [BOB]))
    file.refresh()
    assert owner(file, ALICE) is None


def test_a_file_that_is_the_same_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.yaml"
    write(path, ("alice", [ALICE]))
    file = KeyFile(path)
    os.chmod(path, 0o600)
    monkeypatch.setattr("cluster.access.key_file.read_tenants", lambda path: pytest.fail("read again"))
    file.refresh()


def test_a_new_key_opens_with_the_line_it_comes_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "--tenant", "alice"]) == 0
    told = capsys.readouterr()
    (key,) = [word for word in told.err.split() if word.startswith("rdx-")]
    path = tmp_path / "keys.yaml"
    path.write_text(told.out)
    assert owner(KeyFile(path), key) == "alice"
    assert key not in told.out
    assert main(["keys", "new", "--tenant", "alice & bob"]) == 2
    assert "no name for a tenant" in capsys.readouterr().err


def test_every_digest_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """How long it takes must not tell how far down the file a key stands."""
    path = tmp_path / "keys.yaml"
    write(path, ("alice", [ALICE]), ("bob", [BOB]), ("carol", ["c"]))
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.extend((one, other))
        return one == other

    tenants = read_tenants(path)
    monkeypatch.setattr("hmac.compare_digest", compare)
    found: TenantEntry | None = tenants.owner_of(ALICE.encode())
    assert found is not None
    assert found.tenant == "alice"
    assert [(type(one), len(one)) for one in compared] == [(bytes, 32)] * 6
