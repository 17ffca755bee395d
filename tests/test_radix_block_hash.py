"""Block hashes: the same everywhere and for ever, and a commitment to all they stand for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radix.block_hash import TOKEN_BYTES, hash_blocks, root_hash, token_bytes

REPOSITORY = Path(__file__).parents[1]
NAMESPACE, SECRET = "tiny/int4/bf16/tenant-a", b"cluster secret"
GOLDEN_ROOT = 0x3A3851BA83050808
GOLDEN_BLOCKS = [0xDA00A793FDD67D66, 0x7051E4C3278B6956]
PRINT_HASHES = f"""
from radix.block_hash import hash_blocks, root_hash, token_bytes
root = root_hash({NAMESPACE!r}, {SECRET!r})
print(root, *hash_blocks(root, token_bytes(range(40)), 16))
"""

prompts = st.lists(st.integers(0, 2**31 - 1), max_size=40)
block_sizes = st.integers(1, 8)
parents = st.integers(0, 2**64 - 1)


def test_the_format_is_pinned() -> None:
    """A change here voids every cache and index of a running cluster: routers and workers must change together."""
    root = root_hash(NAMESPACE, SECRET)
    assert root == GOLDEN_ROOT
    assert hash_blocks(root, token_bytes(range(40)), 16) == GOLDEN_BLOCKS


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_every_process_computes_the_same_hashes(seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    run = subprocess.run(
        [sys.executable, "-c", PRINT_HASHES],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    assert [int(word) for word in run.stdout.split()] == [GOLDEN_ROOT, *GOLDEN_BLOCKS]


def test_tokens_are_little_endian_int32() -> None:
    assert token_bytes([1, 0x01020304, 2**31 - 1]) == bytes.fromhex("01000000 04030201 ffffff7f")
    with pytest.raises(OverflowError):
        token_bytes([2**31])


@given(parent=parents, prompt=prompts, block_size=block_sizes, cut=st.integers(0, 8))
@settings(deadline=None)
def test_hashing_in_two_steps_equals_hashing_at_once(parent: int, prompt: list[int], block_size: int, cut: int) -> None:
    tokens = token_bytes(prompt)
    first = hash_blocks(parent, tokens[: cut * block_size * TOKEN_BYTES], block_size)
    rest = hash_blocks(first[-1] if first else parent, tokens[cut * block_size * TOKEN_BYTES :], block_size)
    assert first + rest == hash_blocks(parent, tokens, block_size)


@given(parent=parents, prompt=prompts, block_size=block_sizes)
@settings(deadline=None)
def test_only_full_blocks_have_a_hash(parent: int, prompt: list[int], block_size: int) -> None:
    hashes = hash_blocks(parent, token_bytes(prompt), block_size)
    full = len(prompt) // block_size
    assert len(hashes) == full
    assert hashes == hash_blocks(parent, token_bytes(prompt[: full * block_size]), block_size)
    assert all(0 <= value < 2**64 for value in hashes)
    assert len({parent, *hashes}) == full + 1


@given(parent=parents, prompt=st.lists(st.integers(0, 999), min_size=12, max_size=12), at=st.integers(0, 11))
@settings(deadline=None)
def test_a_changed_token_changes_its_block_and_all_after_it(parent: int, prompt: list[int], at: int) -> None:
    changed = [*prompt[:at], prompt[at] + 1000, *prompt[at + 1 :]]
    pairs = zip(hash_blocks(parent, token_bytes(prompt), 3), hash_blocks(parent, token_bytes(changed), 3), strict=True)
    assert [before == after for before, after in pairs] == [block < at // 3 for block in range(4)]


@pytest.mark.parametrize(
    ("namespace", "secret"),
    [("tiny/int4/bf16/tenant-b", SECRET), ("", SECRET), (NAMESPACE, b"another secret"), (NAMESPACE, b"")],
)
def test_namespace_and_secret_change_every_hash(namespace: str, secret: bytes) -> None:
    tokens = token_bytes([7] * 64)
    ours, theirs = root_hash(NAMESPACE, SECRET), root_hash(namespace, secret)
    assert not {ours, *hash_blocks(ours, tokens, 16)} & {theirs, *hash_blocks(theirs, tokens, 16)}


def test_a_secret_that_blake2_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        root_hash(NAMESPACE, bytes(65))
