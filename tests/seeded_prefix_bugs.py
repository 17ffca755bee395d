"""Bugs of prefix reuse: a hit that holds other KV, a hit too long, a key too weak, a cache full of what is dead."""

import pytest

from radix.block_hash import BlockHasher, HashState
from radix.prefix_cache import PrefixCache
from tests.helpers import request_of
from tests.seeded_bug import SeededBug, serve, serve_to_the_last_block
from tests.witness import WitnessEngine, expected_tokens
from workers.engine.kv_manager import KVManager
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence

PROMPT = list(range(1, 17))  # exactly four blocks of four
ENDLESS = {"ignore_eos": True}
admit, finish, evict = KVManager.admit, Scheduler.finish, PrefixCache.evict


def prompts_go_on_where_completions_stopped() -> None:
    """vllm#5543: after a batch that ended on stop strings, cached prefixes gave wrong tokens, the same ones each time.

    A stop string is seen outside the engine, which is then told to abort; a stop token ends the sequence inside.
    """
    for length in range(1, 9):
        engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=64)
        before = request_of("before", [3] * 5, length, **ENDLESS)
        stopped = request_of("stopped", [4] * 5, 30, **ENDLESS)
        engine.add_request(stopped)
        for _ in range(length):
            engine.step()
        engine.abort("stopped")
        serve(engine, [before])
        turns = [[*r.prompt_token_ids, *expected_tokens(r)[:length]] for r in (before, stopped)]
        serve_to_the_last_block(engine, [request_of(str(i), [*turn, 9], 6) for i, turn in enumerate(turns)])


def publish_the_last_token(patch: pytest.MonkeyPatch) -> None:
    """The token drawn last has no KV yet."""

    def finish_and_commit(self: Scheduler, sequence: Sequence) -> None:
        if sequence.lease is not None:
            sequence.num_computed_tokens = len(sequence.token_ids)
            self._kv.commit(sequence)
        finish(self, sequence)

    patch.setattr(Scheduler, "finish", finish_and_commit)


def a_prompt_is_cached_to_its_last_token() -> None:
    """vllm#7753, vllm#9532: a prompt of whole blocks that are all cached left nothing to compute, and no logits."""
    for max_num_batched_tokens in (4, 64):
        engine = WitnessEngine(num_blocks=20, max_num_batched_tokens=max_num_batched_tokens)
        for _ in range(2):
            for length in (4, 8, 12, 16):
                outputs = serve(engine, [request_of("r", PROMPT[:length], 2, **ENDLESS)])
        assert outputs[0].num_cached_tokens == 12


def match_to_the_end(patch: pytest.MonkeyPatch) -> None:
    def admit_all(self: KVManager, sequence: Sequence) -> bool:
        is_whole = len(sequence.token_ids) % self.block_size == 0
        sequence.token_ids += [0] * is_whole
        admitted = admit(self, sequence)
        del sequence.token_ids[len(sequence.token_ids) - is_whole :]
        return admitted

    patch.setattr(KVManager, "admit", admit_all)


class CollidingEngine(WitnessEngine):
    """For when hashes are not what they should be."""

    def _check_hashes(self) -> None:
        pass


def all_blocks_have_the_same_hash() -> None:
    """CVE-2025-25183: a prompt made to collide with another one's blocks was served that one's KV."""

    def collide(self: BlockHasher, tokens: bytes, state: HashState | None) -> tuple[list[int], HashState | None]:
        return [7] * (len(tokens) // (4 * self.block_size)), state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockHasher, "hash_blocks", collide)
        for budget in (6, 64):
            engine = CollidingEngine(num_blocks=30, max_num_batched_tokens=budget)
            prompts = [[start + 1] * 9 + PROMPT[:start] for start in range(9)]
            requests = [request_of(str(i), prompt, 7, n=1 + i % 2, **ENDLESS) for i, prompt in enumerate(prompts)]
            serve(engine, requests)
            serve_to_the_last_block(engine, requests[::-1])


def trust_the_hash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PrefixCache, "_same_blocks", lambda self, held, wanted, count: count)


def each_turn_rewrites_what_was_said_before() -> None:
    """sglang#22373: clients drop the thinking from the history; its dead branches took 65 to 80 GB.

    Two conversations, one that thinks for long and one that hardly does: each turn finds all of its history that is
    still true, so nothing alive was evicted while dead blocks were left.
    """
    engine = WitnessEngine(num_blocks=34, max_num_batched_tokens=64)
    histories = [[start] * 8 for start in (1, 2)]
    for turn in range(16):
        history = histories[turn % 2]
        request = request_of(str(turn), [*history, turn + 1, 20, 21], (2, 28)[turn % 2], **ENDLESS)
        outputs = serve(engine, [request])
        alive = (len(history) - 1) // 4 * 4 if turn > 1 else 0
        assert outputs[0].num_cached_tokens >= alive, "living history was evicted before dead branches"
        assert len(list(engine.kv.cache._tree.nodes())) <= 34
        histories[turn % 2] = [*request.prompt_token_ids, expected_tokens(request)[-1]]
    assert engine.kv.cache.num_idle_blocks + engine.kv.pool.num_free == 34


def evict_the_youngest_leaf(patch: pytest.MonkeyPatch) -> None:
    def evict_young(self: PrefixCache, num_blocks: int) -> list[int]:
        for leaf in [node for node in self._idle if not node.children]:
            self._idle.move_to_end(leaf, last=False)
        return evict(self, num_blocks)

    patch.setattr(PrefixCache, "evict", evict_young)


PREFIX_BUGS = [
    SeededBug(prompts_go_on_where_completions_stopped, publish_the_last_token, "the tree holds other KV"),
    SeededBug(a_prompt_is_cached_to_its_last_token, match_to_the_end, "no logits where no token is computed"),
    SeededBug(all_blocks_have_the_same_hash, trust_the_hash, "shares blocks that hold other tokens"),
    SeededBug(each_turn_rewrites_what_was_said_before, evict_the_youngest_leaf, "evicted before dead branches"),
]
