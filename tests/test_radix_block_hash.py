"""Block hashes: the same everywhere and for ever, and a commitment to all they stand for."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radix.block_hash import FIRST_POSITIONS, TOKEN_BYTES, BlockHasher, HashState, expand, root_hash, token_bytes

REPOSITORY = Path(__file__).parents[1]
NAMESPACE, SECRET, VOCAB_SIZE = "tiny/int4/bf16/tenant-a", b"cluster secret", 2000
GOLDEN_ROOT = 0x3A3851BA83050808
GOLDEN_BLOCKS = [0x24BDCC142614632C, 0xA0FB5D10789DAE5C]
PRINT_HASHES = f"""
from radix.block_hash import BlockHasher, token_bytes
hasher = BlockHasher({NAMESPACE!r}, {SECRET!r}, 16, {VOCAB_SIZE})
print(hasher.root, *hasher.hash_blocks(token_bytes(range(40)))[0])
"""
MASK = 2**64 - 1

HASHERS = {size: BlockHasher(NAMESPACE, SECRET, size, VOCAB_SIZE) for size in (*range(1, 9), 16)}
prompts = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=40)
hashers = st.integers(1, 8).map(HASHERS.__getitem__)


def hashes_of(hasher: BlockHasher, prompt: list[int], state: HashState | None = None) -> list[int]:
    return hasher.hash_blocks(token_bytes(prompt), state)[0]


def plain_hashes(prompt: list[int], block_size: int) -> list[int]:
    """The definition, one token at a time in Python's own integers."""
    numbers = [int(n) for n in expand(SECRET, "tokens", VOCAB_SIZE)]
    places = [int(n) | 1 for n in expand(SECRET, "places", block_size)]
    positions = [int(n) | 1 for n in expand(SECRET, "positions", len(prompt))]
    value, hashes = root_hash(NAMESPACE, SECRET), []
    for block in range(len(prompt) // block_size):
        tokens = prompt[block * block_size : (block + 1) * block_size]
        number = sum(numbers[token] * place for token, place in zip(tokens, places, strict=True)) & MASK
        value = (value + (number ^ number >> 32) * positions[block]) & MASK
        hashes.append(value)
    return hashes


def test_the_format_is_pinned() -> None:
    """A change here voids every cache and index of a running cluster: routers and workers must change together."""
    assert HASHERS[16].root == GOLDEN_ROOT
    assert hashes_of(HASHERS[16], list(range(40))) == GOLDEN_BLOCKS


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
    assert token_bytes(()) == b""
    for wrong in (2**31, -(2**31) - 1):
        with pytest.raises(OverflowError, match="32-bit"):
            token_bytes([wrong])


@given(hasher=hashers, prompt=prompts)
@settings(deadline=None)
def test_the_hashes_are_what_the_definition_says(hasher: BlockHasher, prompt: list[int]) -> None:
    assert hashes_of(hasher, prompt) == plain_hashes(prompt, hasher.block_size)


@given(hasher=hashers, prompt=prompts, cut=st.integers(0, 8))
@settings(deadline=None)
def test_hashing_in_two_steps_equals_hashing_at_once(hasher: BlockHasher, prompt: list[int], cut: int) -> None:
    tokens = memoryview(token_bytes(prompt))
    border = cut * hasher.block_size * TOKEN_BYTES
    first, state = hasher.hash_blocks(tokens[:border])
    rest, state = hasher.hash_blocks(tokens[border:], state)
    assert (first + rest, state) == hasher.hash_blocks(tokens)
    assert hasher.hash_blocks(b"", state) == ([], state)


@given(hasher=hashers, prompt=prompts)
@settings(deadline=None)
def test_only_full_blocks_have_a_hash(hasher: BlockHasher, prompt: list[int]) -> None:
    hashes = hashes_of(hasher, prompt)
    full = len(prompt) // hasher.block_size
    assert len(hashes) == full
    assert hashes == hashes_of(hasher, prompt[: full * hasher.block_size])
    assert all(0 <= value < 2**64 for value in hashes)
    assert len({hasher.root, *hashes}) == full + 1


@given(prompt=st.lists(st.integers(0, 999), min_size=12, max_size=12), at=st.integers(0, 11))
@settings(deadline=None)
def test_a_changed_token_changes_its_block_and_all_after_it(prompt: list[int], at: int) -> None:
    changed = [*prompt[:at], prompt[at] + 1000, *prompt[at + 1 :]]
    pairs = zip(hashes_of(HASHERS[3], prompt), hashes_of(HASHERS[3], changed), strict=True)
    assert [before == after for before, after in pairs] == [block < at // 3 for block in range(4)]


def test_a_prompt_may_be_longer_than_any_before_it() -> None:
    hasher = BlockHasher(NAMESPACE, SECRET, 1, VOCAB_SIZE)
    prompt = random.Random(0).choices(range(VOCAB_SIZE), k=3 * FIRST_POSITIONS)
    hashes = hashes_of(hasher, prompt)
    assert hashes == plain_hashes(prompt, 1)
    assert hashes_of(hasher, prompt[:9]) == hashes[:9]


def test_structured_prompts_do_not_collide_and_fill_all_bits() -> None:
    """131,000 prompts of few tokens in few patterns: every hash is another, and each byte of them is uniform."""
    hasher = HASHERS[2]
    blocks = [[a, b] for a in range(128) for b in range(128)]
    hashes = {h for first in blocks[:8] for h in hashes_of(hasher, first)}
    for first in blocks[:8]:
        _, state = hasher.hash_blocks(token_bytes(first))
        hashes |= {hashes_of(hasher, block, state)[0] for block in blocks}
    assert len(hashes) == 8 + 8 * len(blocks)
    words = np.fromiter(hashes, np.uint64)
    for shift in range(0, 64, 8):
        counts = np.bincount((words >> np.uint64(shift) & np.uint64(255)).astype(np.int64), minlength=256)
        chi_squared = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert 150 < chi_squared < 400, f"the byte at bit {shift} is not uniform"


def test_blocks_in_a_thue_morse_pattern_do_not_collide() -> None:
    """They would, at this length, if positions were powers of one number, secret or not."""
    pattern = [bin(block).count("1") % 2 for block in range(4096)]
    first, second = (hashes_of(HASHERS[1], [value ^ flip for value in pattern]) for flip in (0, 1))
    assert all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("namespace", "secret"),
    [("tiny/int4/bf16/tenant-b", SECRET), ("", SECRET), (NAMESPACE, b"another secret"), (NAMESPACE, b"")],
)
def test_namespace_and_secret_change_every_hash(namespace: str, secret: bytes) -> None:
    ours, theirs = HASHERS[16], BlockHasher(namespace, secret, 16, VOCAB_SIZE)
    assert not {ours.root, *hashes_of(ours, [7] * 64)} & {theirs.root, *hashes_of(theirs, [7] * 64)}


def test_a_salt_begins_where_nothing_else_does() -> None:
    hasher = HASHERS[16]
    assert hashes_of(hasher, [7] * 64, hasher.start("")) == hashes_of(hasher, [7] * 64)
    salts = ["", "a", "b", "ab", "a\0b"]
    namespaces = [hasher, BlockHasher(f"{NAMESPACE}a", SECRET, 16, VOCAB_SIZE)]
    begun = [hashes_of(each, [7] * 64, each.start(salt)) for each in namespaces for salt in salts]
    assert len({one for hashes in begun for one in hashes}) == 4 * len(begun)


@pytest.mark.parametrize("token", [VOCAB_SIZE, 2**31 - 1, -1, -VOCAB_SIZE])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(ValueError, match=f"0 to {VOCAB_SIZE - 1}"):
        hashes_of(HASHERS[2], [1, token])


def test_a_secret_that_blake2_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        BlockHasher(NAMESPACE, bytes(65), 16, VOCAB_SIZE)
