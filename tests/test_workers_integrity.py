"""The integrity check finds each kind of damage, and says which."""

from collections.abc import Callable

import pytest

from tests.helpers import request_of
from tests.witness import WitnessEngine
from workers.engine.sequence import Sequence, SequenceStatus

PROMPT = list(range(1, 19))
Damage = Callable[[WitnessEngine, Sequence], object]


def leak(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.kv.pool.allocate(1)


def share_a_writable_block(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.kv.pool.free(engine._sequences["b"][0].block_table[-1:])
    engine._sequences["b"][0].block_table[-1] = sequence.block_table[-1]


def free_in_secret(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.kv.pool._is_free[sequence.block_table[-1]] = True


def give_the_lease_back(engine: WitnessEngine, sequence: Sequence) -> None:
    assert sequence.lease is not None
    engine.kv.cache.release(sequence.lease)


def keep_a_lease(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.kv.cache.acquire(engine.kv.cache.match(sequence.block_hashes, sequence.tokens_of_blocks(0, 4)))


def swap(engine: WitnessEngine, sequence: Sequence) -> None:
    sequence.block_table[:2] = sequence.block_table[1::-1]


def rewrite_history(engine: WitnessEngine, sequence: Sequence) -> None:
    sequence.token_ids[0] += 1


def forget_an_entry(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.kv.pool.free([sequence.block_table.pop()])


def take_too_many(engine: WitnessEngine, sequence: Sequence) -> None:
    sequence.block_table += engine.kv.pool.allocate(1)


def compute_all(engine: WitnessEngine, sequence: Sequence) -> None:
    sequence.num_computed_tokens += 1


def commit_too_much(engine: WitnessEngine, sequence: Sequence) -> None:
    sequence.token_ids += [1] * 8
    engine.kv.grow(sequence, 7)
    sequence.num_computed_tokens += 6
    engine.kv.commit(sequence)
    sequence.num_computed_tokens -= 6


def wait_for_nothing(engine: WitnessEngine, sequence: Sequence) -> None:
    sequence.rows_in_flight = [1]


def queue_twice(engine: WitnessEngine, sequence: Sequence) -> None:
    engine._scheduler.waiting.append(sequence)


def resurrect(engine: WitnessEngine, sequence: Sequence) -> None:
    engine._scheduler._preempt(sequence)
    sequence.status = SequenceStatus.RUNNING


def remember_the_dead(engine: WitnessEngine, sequence: Sequence) -> None:
    engine._scheduler._preempt(sequence)
    engine._scheduler.waiting.remove(sequence)
    sequence.status = SequenceStatus.FINISHED


def put_the_child_first(engine: WitnessEngine, sequence: Sequence) -> None:
    sequence.parent = engine._sequences["b"][0]


def write_to_a_free_block(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.memory.write(engine.kv.pool.free_block_ids(), 0, 1)


def overwrite_a_token(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.memory.write(sequence.block_table, 17, 1)


def overwrite_a_cached_block(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.abort("a")
    engine.abort("b")
    engine.memory.write(list(engine.kv.cache.held_block_ids()), 0, 7)


def reorder_the_idle(engine: WitnessEngine, sequence: Sequence) -> None:
    engine.abort("a")
    cache = engine.kv.cache
    part = cache.acquire(cache.match(sequence.block_hashes[:1], sequence.tokens_of_blocks(0, 1)))
    cache.release(part)
    cache._idle.move_to_end(part, last=False)


DAMAGES: dict[Damage, str] = {
    leak: "lost or held twice",
    share_a_writable_block: "lost or held twice",
    free_in_secret: "free blocks and their marks differ",
    give_the_lease_back: "pinned 0 times by 1 leases",
    keep_a_lease: "pinned 2 times by 1 leases",
    swap: "a uses a block that its lease does not pin",
    rewrite_history: "a shares blocks that hold other tokens",
    forget_an_entry: "0 of a has 4 blocks, not 5 to 5",
    take_too_many: "0 of a has 6 blocks, not 5 to 5",
    compute_all: "no token left to compute",
    commit_too_much: "committed blocks that it has not computed",
    wait_for_nothing: r"a waits for tokens \[1\], but \[\] are in flight",
    queue_twice: "the queue of what is WAITING",
    resurrect: "or runs without",
    remember_the_dead: "is over and still known",
    put_the_child_first: "a waits for a parent behind it",
    write_to_a_free_block: "a free block was written to",
    overwrite_a_token: "a table leads to other KV",
    overwrite_a_cached_block: "the tree holds other KV",
    reorder_the_idle: "behind its ancestor",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_check_finds(damage: Damage, message: str) -> None:
    engine = WitnessEngine(num_blocks=20, max_num_batched_tokens=64)
    for name, prompt in (("a", PROMPT), ("b", [30] * 6)):
        engine.add_request(request_of(name, prompt, 9, ignore_eos=True))
    engine.step()
    engine.check_integrity()
    damage(engine, engine.sequence("a"))
    with pytest.raises(AssertionError, match=message):
        engine.check_integrity()
