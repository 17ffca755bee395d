"""What holds between any two steps, whatever happened before them. A scan of everything: for tests, not for serving.

check                  what must hold
check_blocks           every block is free, cached or private to one sequence, exactly once; a block that may still be
                       written is therefore in one table only and not in the prefix cache
PrefixCache's own      a node is pinned as often as leases lie on or below it, so ancestors of a pinned node are pinned;
                       the idle list is the unpinned nodes, each before its ancestors; runs are whole, not empty, and
                       found under their first hash
check_lease            the committed part of a table is what its lease pins, block by block and token by token
check_progress         the table has one entry per started block, a running sequence has a token left to compute, and
                       one that waits or is over has no blocks
check_flight           a sequence waits for as many tokens as the batch in flight draws for it, one at most, at the
                       place where it draws it
check_queues           each live sequence stands in one queue, the one its status names, behind its parent

That blocks hold the KV of their tokens, and free ones nothing that is read again, needs a look into the memory: see
tests/witness.py. Eviction order, events and what is left in the end have tests of their own: docs/correctness.md lists
all invariants with the check or test of each.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Items

from workers.engine.kv_manager import KVManager
from workers.engine.scheduler import ScheduledBatch, Scheduler
from workers.engine.sequence import Sequence, SequenceStatus


def check_integrity(
    kv: KVManager, scheduler: Scheduler, sequences: Iterable[Sequence], in_flight: Items[ScheduledBatch] = ()
) -> None:
    """Raise AssertionError where one of the above does not hold for `sequences`, all that the engine knows."""
    sequences = list(sequences)
    check_blocks(kv, sequences)
    kv.cache.check_integrity([sequence.lease for sequence in sequences if sequence.lease is not None])
    for sequence in sequences:
        check_lease(kv, sequence)
        check_progress(kv, sequence)
        check_flight(sequence, in_flight)
    check_queues(scheduler, sequences)


def check_blocks(kv: KVManager, sequences: list[Sequence]) -> None:
    """Free, cached and private blocks together are all blocks, each once."""
    cached = list(kv.cache.held_block_ids())
    private = [block for sequence in sequences for block in sequence.block_table[sequence.num_committed_blocks :]]
    if sorted(cached + private + kv.pool.free_block_ids()) != list(range(kv.pool.num_blocks)):
        raise AssertionError("a block is lost or held twice")


def check_lease(kv: KVManager, sequence: Sequence) -> None:
    """The committed blocks of a sequence's table are those its lease pins, and hold its tokens."""
    if sequence.lease is None:
        return
    count = sequence.num_committed_blocks
    pinned = kv.cache.leased(sequence.lease)
    if pinned.block_ids != sequence.block_table[:count]:
        raise AssertionError(f"{name(sequence)} uses a block that its lease does not pin")
    if pinned.tokens != sequence.tokens_of_blocks(0, count):
        raise AssertionError(f"{name(sequence)} shares blocks that hold other tokens")


def check_progress(kv: KVManager, sequence: Sequence) -> None:
    """A table is as long as the tokens it was admitted with, or as those computed where that is more.

    At admission it covers all tokens, in decoding all but the one just drawn; with one token left either may be so.
    """
    table, left = len(sequence.block_table), sequence.num_uncomputed_tokens
    if sequence.lease is None:
        if sequence.status is SequenceStatus.RUNNING or table or sequence.num_computed_tokens:
            raise AssertionError(f"{name(sequence)} has a table or computed tokens, but no lease, or runs without")
        return
    longest = kv.num_blocks_for(sequence.num_tokens)
    shortest = kv.num_blocks_for(sequence.num_computed_tokens) if left == 1 else longest
    if left < (0 if sequence.status is SequenceStatus.FINISHED else 1):  # what is held may have computed its last one
        raise AssertionError(f"{name(sequence)} has no token left to compute, so none could be drawn")
    if not shortest <= table <= longest:
        raise AssertionError(f"{name(sequence)} has {table} blocks, not {shortest} to {longest}")
    if sequence.num_computed_tokens < sequence.num_committed_blocks * kv.block_size:
        raise AssertionError(f"{name(sequence)} committed blocks that it has not computed")


def check_flight(sequence: Sequence, in_flight: Items[ScheduledBatch]) -> None:
    """What a sequence takes to be in flight is what the batches in flight draw for it."""
    draws = [[item.sequence for item in batch.items if item.samples] for batch in in_flight]
    rows = [row for batch in draws for row, drawn in enumerate(batch) if drawn is sequence]
    if sequence.rows_in_flight != rows or len(rows) > 1:
        raise AssertionError(f"{name(sequence)} waits for tokens {sequence.rows_in_flight}, but {rows} are in flight")


def check_queues(scheduler: Scheduler, sequences: list[Sequence]) -> None:
    """The queues hold exactly the sequences that wait or run, each once."""
    order = [*scheduler.running, *scheduler.waiting]
    for queue, status in ((scheduler.running, SequenceStatus.RUNNING), (scheduler.waiting, SequenceStatus.WAITING)):
        if sorted(map(id, queue)) != sorted(id(sequence) for sequence in sequences if sequence.status is status):
            raise AssertionError(f"the queue of what is {status.name} holds something else")
    for place, sequence in enumerate(order):
        if sequence.parent in order[place + 1 :]:
            raise AssertionError(f"{name(sequence)} waits for a parent behind it")
    for sequence in sequences:
        if sequence.status is SequenceStatus.FINISHED and not sequence.held:
            raise AssertionError(f"{name(sequence)} is over and still known")


def name(sequence: Sequence) -> str:
    """A sequence, for messages."""
    return f"completion {sequence.index} of {sequence.request.request_id}"
