"""Requests share KV with those of their own salt and nobody else: in a worker's cache and in a router's index."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radix.block_hash import BlockHasher, token_bytes
from radix.prefix_index import PrefixIndex
from tests.helpers import drain, num_leaked_blocks, request_of, small_engine
from workers.engine.build import BuiltEngine
from workers.request import RequestOutput

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = [(7 * place) % 250 for place in range(41)]
BLOCK_SIZE = 4
HASHER = BlockHasher("", b"", BLOCK_SIZE, 256)
SALTS = st.sampled_from(["", "alice/", "alice/x", "alicex/", "bob/", "bob/\0x"])


def first_output(built: BuiltEngine, name: str, salt: str) -> RequestOutput:
    request = replace(request_of(name, PROMPT, 3), cache_salt=salt)
    built.engine.add_request(request)
    return drain(built.engine.step, built.engine)[0]


def test_each_salt_has_its_own_kv_of_the_same_prompt(untied_dir: Path) -> None:
    built = small_engine(untied_dir)
    salts = ["alice/", "bob/", "", "alice/x"]
    cold = [first_output(built, f"cold {salt}", salt) for salt in salts]
    warm = [first_output(built, f"warm {salt}", salt) for salt in salts]
    assert [output.num_cached_tokens for output in cold] == [0] * 4, "another tenant's prompt was a hit"
    assert [output.num_cached_tokens for output in warm] == [40] * 4
    assert len({output.token_ids for output in cold + warm}) == 1
    assert num_leaked_blocks(built.engine) == 0


def test_completions_of_one_request_share_under_its_salt(untied_dir: Path) -> None:
    built = small_engine(untied_dir)
    request = replace(request_of("n", PROMPT, 3, n=3), cache_salt="alice/")
    built.engine.add_request(request)
    drain(built.engine.step, built.engine)
    assert built.engine.kv.cache.num_idle_blocks <= 10 + 3, "the prompt once, and what each has added"
    assert first_output(built, "bob's", "bob/").num_cached_tokens == 0
    assert first_output(built, "alice's", "alice/").num_cached_tokens == 40


def test_a_routers_index_finds_a_prompt_under_its_salt_only(untied_dir: Path) -> None:
    built = small_engine(untied_dir)
    hasher = built.engine._hasher
    first_output(built, "x", "alice/")
    index = PrefixIndex(hasher.root)
    for event in built.engine.take_events():
        index.apply("worker", event)
    tokens = token_bytes(PROMPT)
    held = {salt: index.match(hasher.hash_blocks(tokens, hasher.start(salt))[0]) for salt in ("alice/", "bob/", "")}
    assert held == {"alice/": {"worker": 10}, "bob/": {}, "": {}}
    built.engine.kv.pool.free(built.engine.kv.cache.clear())
    for event in built.engine.take_events():
        index.apply("worker", event)
    assert index.num_blocks == 0, "what is cleared is cleared for every salt"


@given(prompt=st.lists(st.integers(0, 255), min_size=4, max_size=40), one=SALTS, other=SALTS)
def test_no_hash_of_a_prompt_is_that_of_another_salt(prompt: list[int], one: str, other: str) -> None:
    hashes = [HASHER.hash_blocks(token_bytes(prompt), HASHER.start(salt))[0] for salt in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)
    assert one == other or not set(hashes[0]) & set(hashes[1])
