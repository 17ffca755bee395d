"""Bugs of batches in flight: of what was launched before the host knew how the batch before would end."""

from array import array

import pytest
import torch

from tests.helpers import drain, request_of
from tests.seeded_bug import SeededBug, serve, serve_to_the_last_block, tokens_of
from tests.witness import WitnessBlocks, WitnessEngine, expected_tokens, request_that_ends_after
from tests.witness_memory import WitnessMemory
from workers.engine import scheduler
from workers.engine.engine import BatchInFlight, Engine
from workers.engine.kv_manager import KVManager
from workers.engine.scheduler import ScheduledSequence, Scheduler
from workers.engine.sequence import Sequence, SequenceStatus
from workers.request import RequestOutput, SampledToken

PROMPT = list(range(1, 19))  # four blocks of four and a half
ENDLESS = {"ignore_eos": True}
append, commit, finish = Engine._append, KVManager.commit, Scheduler.finish
scheduled = scheduler.scheduled


def engine_ahead(num_blocks: int = 40) -> WitnessEngine:
    return WitnessEngine(num_blocks, max_num_batched_tokens=64, ahead=True)


def blocks_fill_with_tokens_in_flight() -> None:
    serve_to_the_last_block(engine_ahead(), [request_of(str(i), [i + 1] * (5 + i), 17, **ENDLESS) for i in range(4)])


def hash_a_placeholder(patch: pytest.MonkeyPatch) -> None:
    """A token that is not known yet stands as 0 in the tokens, and a block is found by that."""

    def commit_unknown(self: KVManager, sequence: Sequence) -> None:
        known = len(sequence.token_ids)
        sequence.token_ids += [0] * len(sequence.rows_in_flight)
        commit(self, sequence)
        del sequence.token_ids[known:]

    patch.setattr(KVManager, "commit", commit_unknown)


def one_ends_while_its_next_token_is_computed() -> None:
    for length in range(1, 9):
        other = request_of("other", PROMPT, 12, **ENDLESS)
        serve_to_the_last_block(engine_ahead(), [other, request_that_ends_after(length, "ends")])


def give_what_was_dropped(patch: pytest.MonkeyPatch) -> None:
    def collect_all(self: Engine, flight: BatchInFlight) -> list[RequestOutput]:
        outputs = []
        sequences = [item.sequence for item in flight.batch.items if item.samples]
        for sequence, token in zip(sequences, flight.launched.collect(), strict=True):
            del sequence.rows_in_flight[:1]
            is_over = sequence.status is SequenceStatus.FINISHED
            late = RequestOutput(sequence.request.request_id, (token.token_id,), 0)
            outputs.append(late if is_over else self._append(sequence, token))
        return outputs

    patch.setattr(Engine, "_collect", collect_all)


def one_ends_as_its_next_block_is_begun() -> None:
    """The dropped token is the first of a block, which was taken for it."""
    for length in range(1, 9):
        serve_to_the_last_block(engine_ahead(), [request_that_ends_after(length, "ends")])


def free_the_block_of_the_dropped_step(patch: pytest.MonkeyPatch) -> None:
    """The step in flight was given a block of its own accord, so somebody frees it on its own account."""

    def finish_twice(self: Scheduler, sequence: Sequence) -> None:
        tail = sequence.block_table[sequence.num_committed_blocks :] if sequence.rows_in_flight else []
        finish(self, sequence)
        self._kv.pool.free(tail[-1:])

    patch.setattr(Scheduler, "finish", finish_twice)


def a_prompt_arrives_as_another_ends() -> None:
    """What arrives goes into the block that the dropped step still writes to, and is published at once."""
    for length in range(1, 9):
        engine = engine_ahead(num_blocks=7)
        serve(engine, [request_that_ends_after(length, "ends")])
        request = request_of("arrives", PROMPT[:16], 5, **ENDLESS)
        first, *rest = expected_tokens(request)
        engine.add_prefilled(request, first, WitnessBlocks(PROMPT[:16], 4, 4))
        assert tokens_of(drain(engine.step, engine), request) == rest, "a wrong token"


def write_beside_the_stream(patch: pytest.MonkeyPatch) -> None:
    """What arrives is copied in at once, on another stream than the batches; the stale write comes after it."""

    def write_blocks(self: WitnessMemory, block_ids: list[int], blocks: torch.Tensor) -> None:
        for block, content in zip(block_ids, blocks.tolist(), strict=True):
            self._put(block, array("q", content))

    patch.setattr(WitnessMemory, "write_blocks", write_blocks)


def forks_part_from_a_prompt_in_flight() -> None:
    for length in range(1, 19):
        serve_to_the_last_block(engine_ahead(), [request_of("r", PROMPT[:length], 5, n=3, **ENDLESS)])


def copy_beside_the_stream(patch: pytest.MonkeyPatch) -> None:
    """The block is copied before the batch in flight has filled it."""

    def copy_block(self: WitnessMemory, source: int, target: int) -> None:
        self._put(target, self.block(source))

    patch.setattr(WitnessMemory, "copy_block", copy_block)


def all_get_as_many_tokens_as_they_may() -> None:
    serve_to_the_last_block(engine_ahead(), [request_of(str(i), [i + 1] * 5, 1 + 2 * i, **ENDLESS) for i in range(4)])


def compute_beyond_the_last_token(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sequence, "num_ready_tokens", Sequence.num_uncomputed_tokens)


def some_need_to_know_their_tokens() -> None:
    requests = [request_of(str(i), [i + 1] * 5, 9, presence_penalty=i % 2, **ENDLESS) for i in range(4)]
    serve_to_the_last_block(engine_ahead(), requests)


def feed_everybody(patch: pytest.MonkeyPatch) -> None:
    """A draw that depends on the tokens before is made without the last of them."""

    def num_ready_tokens(self: Sequence) -> int:
        return 0 if self.num_output_tokens >= self.request.sampling.max_tokens else self.num_uncomputed_tokens

    patch.setattr(Sequence, "num_ready_tokens", property(num_ready_tokens))


def some_are_preempted_with_a_token_in_flight() -> None:
    engine = WitnessEngine(num_blocks=8, max_num_seqs=3, max_num_batched_tokens=64, ahead=True)
    serve_to_the_last_block(engine, [request_of(str(i), [i + 1] * 7, 17, **ENDLESS) for i in range(3)])
    assert engine.seen["preemptions in flight"] > 0


def give_it_and_draw_it_again(patch: pytest.MonkeyPatch) -> None:
    def append_while_running(self: Engine, sequence: Sequence, token: SampledToken) -> RequestOutput:
        if sequence.status is SequenceStatus.RUNNING:
            return append(self, sequence, token)
        return RequestOutput(sequence.request.request_id, (token.token_id,), 0)

    patch.setattr(Engine, "_append", append_while_running)


def several_are_fed_at_once() -> None:
    """Beside a long prompt that draws nothing, so that places in a batch and among its tokens differ."""
    engine = WitnessEngine(num_blocks=40, max_num_batched_tokens=8, ahead=True)
    short = [request_of(str(i), [i + 1] * 3, 12, **ENDLESS) for i in range(2)]
    serve_to_the_last_block(engine, [*short, request_of("long", PROMPT, 3), request_of("last", [30], 9, **ENDLESS)])


def feed_from_the_first(patch: pytest.MonkeyPatch) -> None:
    def feed_first(sequence: Sequence, num_tokens: int) -> ScheduledSequence:
        item = scheduled(sequence, num_tokens)
        return item if item.fed_from is None else item._replace(fed_from=0)

    patch.setattr(scheduler, "scheduled", feed_first)


FLIGHT_BUGS = [
    SeededBug(blocks_fill_with_tokens_in_flight, hash_a_placeholder, "shares blocks that hold other tokens"),
    SeededBug(one_ends_while_its_next_token_is_computed, give_what_was_dropped, "a wrong token"),
    SeededBug(one_ends_as_its_next_block_is_begun, free_the_block_of_the_dropped_step, "is freed twice"),
    SeededBug(a_prompt_arrives_as_another_ends, write_beside_the_stream, "other KV|reads a block that is free"),
    SeededBug(forks_part_from_a_prompt_in_flight, copy_beside_the_stream, "other KV|reads a block that is free"),
    SeededBug(all_get_as_many_tokens_as_they_may, compute_beyond_the_last_token, "nothing follows the last token"),
    SeededBug(some_need_to_know_their_tokens, feed_everybody, "a penalty needs to know the token"),
    SeededBug(some_are_preempted_with_a_token_in_flight, give_it_and_draw_it_again, "a wrong token"),
    SeededBug(several_are_fed_at_once, feed_from_the_first, "other KV|a wrong token"),
]
