"""Bugs of block accounting: blocks freed twice, too early, too late or never. Each scenario names where it happened."""

import contextlib
import random

import pytest

from radix.tree import RadixNode, RadixTree
from tests.engine_driver import BASES, assert_nothing_left
from tests.helpers import drain, request_of
from tests.seeded_bug import SeededBug, serve, serve_to_the_last_block
from tests.witness import WitnessEngine
from tests.witness_runner import VOCAB_SIZE
from workers.engine.block_pool import BlockPool
from workers.engine.kv_manager import KVManager
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence

PROMPT = list(range(1, 17))  # exactly four blocks of four
ENDLESS = {"ignore_eos": True}
release, commit = KVManager.release, KVManager.commit


def one_block_twice_in_one_free() -> None:
    """vllm#42571: a block named twice in one call became two free entries."""
    pool = BlockPool(4)
    (block,) = pool.allocate(1)
    with contextlib.suppress(ValueError):
        pool.free([block, block])
    taken = pool.allocate(pool.num_free)
    assert len(set(taken)) == len(taken) <= 4, "a block was handed out twice"


def free_without_looking(patch: pytest.MonkeyPatch) -> None:
    def free(self: BlockPool, block_ids: list[int]) -> None:
        for block in block_ids:
            self._is_free[block] = True
        self._free += block_ids

    patch.setattr(BlockPool, "free", free)


def an_old_prefix_comes_back_after_its_blocks_were_reused() -> None:
    """vllm#4764, kvcached#362, vllm#44237: eviction left the entry in the map; it matched again, and the map grew."""
    engine = WitnessEngine(num_blocks=5)
    for start in range(20):
        serve(engine, [request_of("old", [start + 1] * 16, 2), request_of("flood", [30 - start] * 17, 2)])
        assert len(list(engine.kv.cache._tree.nodes())) <= 5
    assert serve(engine, [request_of("old", [1] * 16, 2)])[0].num_cached_tokens == 0


def evict_without_unlinking(patch: pytest.MonkeyPatch) -> None:
    def remove(self: RadixTree[object], leaf: RadixNode[object]) -> None:
        """Leaves the leaf where it can be found."""

    patch.setattr(RadixTree, "remove", remove)


def two_identical_prompts_at_once_then_pressure() -> None:
    """mini-sglang#142: the second copy of a block was freed while its sequence's table still pointed at it."""
    engine = WitnessEngine(num_blocks=12, max_num_batched_tokens=64)
    twins = [request_of(name, PROMPT, 12, **ENDLESS) for name in ("a", "b")]
    serve_to_the_last_block(engine, [*twins, *(request_of(str(i), [20 + i] * 9, 8, **ENDLESS) for i in range(6))])


def keep_the_old_table(patch: pytest.MonkeyPatch) -> None:
    def without_switch(self: KVManager, sequence: Sequence) -> None:
        table = list(sequence.block_table)
        commit(self, sequence)
        sequence.block_table = table

    patch.setattr(KVManager, "commit", without_switch)


def a_prompt_is_aborted_after_its_first_chunk() -> None:
    """sglang#38319: the chunk was in the tree, and the abort freed its pages."""
    engine = WitnessEngine(max_num_batched_tokens=8)
    engine.add_request(request_of("gone", PROMPT, 4))
    engine.step()
    engine.abort("gone")
    outputs = serve(engine, [request_of("flood", [30] * 20, 4), request_of("again", PROMPT, 4)])
    assert outputs[-1].num_cached_tokens == 8
    assert_nothing_left(engine)


def free_what_the_cache_holds(patch: pytest.MonkeyPatch) -> None:
    def release_all(self: KVManager, sequence: Sequence) -> None:
        sequence.num_committed_blocks = 0
        release(self, sequence)

    patch.setattr(KVManager, "release", release_all)


def one_ends_as_another_is_preempted() -> None:
    """sglang#18694: preemption freed a request that had just finished. Every length, to meet the step in which both."""
    for max_tokens in range(1, 16):
        engine = WitnessEngine(num_blocks=8, max_num_seqs=3, max_num_batched_tokens=64)
        young = request_of("young", [11] * 7, max_tokens, **ENDLESS)
        serve_to_the_last_block(engine, [*(request_of(str(i), [i + 1] * 7, 17, **ENDLESS) for i in range(2)), young])


def leave_the_finished_in_the_queue(patch: pytest.MonkeyPatch) -> None:
    def finish(self: Scheduler, sequence: Sequence) -> None:
        self._kv.release(sequence)

    patch.setattr(Scheduler, "finish", finish)


def sequences_end_in_the_middle_of_a_block() -> None:
    """sglang#38941: the unaligned tail and the truncated tail shared a page, and it was freed for both.

    Here no block is freed in parts; the nearest mistake is to free the partly filled one apart from the others.
    """
    for length in range(1, 9):
        engine = WitnessEngine(num_blocks=8, max_num_seqs=3, max_num_batched_tokens=64)
        requests = [request_of(str(i), [i + 1] * length, 13, **ENDLESS) for i in range(3)]
        serve_to_the_last_block(engine, requests)


def free_the_tail_for_itself(patch: pytest.MonkeyPatch) -> None:
    def release_twice(self: KVManager, sequence: Sequence) -> None:
        tail = sequence.block_table[sequence.num_computed_tokens // self.block_size :]
        release(self, sequence)
        self.pool.free(tail[:1])

    patch.setattr(KVManager, "release", release_twice)


def one_ends_as_it_fills_a_block() -> None:
    """sglang-jax#982: the committed length was inferred a second time, from other numbers, at the end."""
    engine = WitnessEngine(num_blocks=20, max_num_batched_tokens=64)
    serve_to_the_last_block(engine, [request_of(str(i), [i + 1] * 6, 3 + i, **ENDLESS) for i in range(4)])


def infer_the_committed_length(patch: pytest.MonkeyPatch) -> None:
    def release_beyond_prompt(self: KVManager, sequence: Sequence) -> None:
        inferred = len(sequence.request.prompt_token_ids) // self.block_size
        sequence.num_committed_blocks = min(sequence.num_committed_blocks, inferred)
        release(self, sequence)

    patch.setattr(KVManager, "release", release_beyond_prompt)


def a_prompt_is_asked_for_again_while_it_is_computed() -> None:
    """sglang#24175: KV that was not final yet was published to the shared tree."""
    engine = WitnessEngine(num_blocks=20, max_num_batched_tokens=8)
    serve_to_the_last_block(engine, [request_of(name, PROMPT, 6, **ENDLESS) for name in ("a", "b", "c")])


def commit_what_is_not_computed(patch: pytest.MonkeyPatch) -> None:
    def commit_ahead(self: KVManager, sequence: Sequence) -> None:
        computed = sequence.num_computed_tokens
        sequence.num_computed_tokens = min(len(sequence.token_ids), len(sequence.block_table) * self.block_size)
        commit(self, sequence)
        sequence.num_computed_tokens = computed

    patch.setattr(KVManager, "commit", commit_ahead)


def many_requests_come_and_go(count: int = 2000) -> None:
    """sglang#105, #140, #6888, #11970: an idle engine found that blocks had leaked."""
    rng = random.Random(count)
    engine = WitnessEngine(num_blocks=24, max_num_batched_tokens=16)
    for number in range(count):
        prompt = [*rng.choice(BASES)[: rng.choice([1, 8, 17])], rng.randrange(VOCAB_SIZE)]
        engine.add_request(request_of(str(number), prompt, rng.choice([1, 4, 9]), n=rng.choice([1, 1, 1, 3])))
        if rng.random() < 0.2:
            engine.abort(str(rng.randint(max(0, number - 6), number)))
        for _ in range(40):
            engine.step()
            if len(engine._sequences) < 6:
                break
        engine.take_events()
    drain(engine.step, engine)
    assert_nothing_left(engine)


def keep_the_private_blocks(patch: pytest.MonkeyPatch) -> None:
    def release_committed(self: KVManager, sequence: Sequence) -> None:
        sequence.num_committed_blocks = len(sequence.block_table)
        release(self, sequence)

    patch.setattr(KVManager, "release", release_committed)


BLOCK_BUGS = [
    SeededBug(one_block_twice_in_one_free, free_without_looking, "handed out twice"),
    SeededBug(an_old_prefix_comes_back_after_its_blocks_were_reused, evict_without_unlinking, "lost or held twice"),
    SeededBug(two_identical_prompts_at_once_then_pressure, keep_the_old_table, "its lease does not pin"),
    SeededBug(a_prompt_is_aborted_after_its_first_chunk, free_what_the_cache_holds, "lost or held twice"),
    SeededBug(one_ends_as_another_is_preempted, leave_the_finished_in_the_queue, "the queue of what is RUNNING"),
    SeededBug(sequences_end_in_the_middle_of_a_block, free_the_tail_for_itself, "is freed twice"),
    SeededBug(one_ends_as_it_fills_a_block, infer_the_committed_length, "lost or held twice"),
    SeededBug(a_prompt_is_asked_for_again_while_it_is_computed, commit_what_is_not_computed, "has not computed"),
    SeededBug(many_requests_come_and_go, keep_the_private_blocks, "lost or held twice"),
]
