"""Bugs for the pools' simulation to find: each put into the smallest method that can carry it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cluster.door.failures import Loss
from cluster.door.journey import Journey
from router.router import Router
from tests.pool_simulation_door import Door
from workers.engine.engine import Engine
from workers.pools import kv_frames
from workers.pools.decode_worker import DecodeWorker
from workers.pools.handoff_shelf import HandoffShelf, Waiting
from workers.pools.kv_frames import ReceivedBlocks, unpack
from workers.pools.kv_handoff import Prefilled, pack_blocks
from workers.pools.services import DecodeService
from workers.request import GenerationRequest, RequestOutput

resumed, taken, fetch = GenerationRequest.resumed, Journey._taken, HandoffShelf._fetch


@dataclass(frozen=True)
class PoolBug:
    """A way to go wrong.

    Attributes:
        seed: puts it in.
        noticed: what the simulation then says.
    """

    seed: Callable[[pytest.MonkeyPatch], None]
    noticed: str


def begin_again_from_the_prompt(patch: pytest.MonkeyPatch) -> None:
    """What was generated is forgotten, and given again."""

    def from_prompt(self: GenerationRequest, tokens: Sequence[int], attempt: int, s: float | None) -> GenerationRequest:
        return resumed(self, (), attempt, s)

    patch.setattr(GenerationRequest, "resumed", from_prompt)


def call_every_attempt_the_same(patch: pytest.MonkeyPatch) -> None:
    """A zombie's attempt cannot be told from the next."""

    def same_id(self: GenerationRequest, tokens: Sequence[int], attempt: int, s: float | None) -> GenerationRequest:
        first_id = self.request_id.partition("#")[0]
        return replace(resumed(self, tokens, attempt, s), request_id=first_id)

    patch.setattr(GenerationRequest, "resumed", same_id)


def count_a_token_twice(patch: pytest.MonkeyPatch) -> None:
    """The next attempt goes on one token too late."""

    def taken_twice(self: Journey, output: RequestOutput) -> RequestOutput:
        self._output_token_ids += output.token_ids if output.finish_reason is None else ()
        return taken(self, output)

    patch.setattr(Journey, "_taken", taken_twice)


def give_the_first_token_again(patch: pytest.MonkeyPatch) -> None:
    """The decode worker draws it too."""

    def add(self: DecodeWorker, request: GenerationRequest, prefilled: Prefilled, blocks: ReceivedBlocks) -> None:
        self._engine.add_request(request).imported = blocks

    patch.setattr(DecodeWorker, "add_prefilled", add)


def check_no_checksums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kv_frames, "zlib", SimpleNamespace(crc32=lambda block: 0))


def take_frames_as_they_come(patch: pytest.MonkeyPatch) -> None:
    """Doubled or missing ones move what follows."""

    def add(self: ReceivedBlocks, frame: bytes) -> None:
        _, checksums, payload = unpack(frame)
        raw = np.frombuffer(payload, np.uint8).reshape(len(checksums), -1)[: self.num_missing]
        pack_blocks(self._blocks[self._num_arrived : self._num_arrived + len(raw)])[:] = raw
        self._num_arrived += len(raw)

    patch.setattr(ReceivedBlocks, "add", add)


def fetch_from_another_block(patch: pytest.MonkeyPatch) -> None:
    """The shelf counts blocks from one, and numbers them as it was asked to."""

    def rolled(self: HandoffShelf, request_id: str, waiting: Waiting, first_block: int) -> Iterator[bytes]:
        return fetch(self, request_id, waiting._replace(blocks=np.roll(waiting.blocks, 1, axis=0)), first_block)

    patch.setattr(HandoffShelf, "_fetch", rolled)


def take_missing_blocks_for_others(patch: pytest.MonkeyPatch) -> None:
    """A block that was held when the others were asked for, and is gone, is taken for the first that came."""

    def read_blocks(self: ReceivedBlocks, first_block: int) -> torch.Tensor:
        return self._blocks[max(0, first_block - self.first_block) : self._num_arrived]

    patch.setattr(ReceivedBlocks, "read_blocks", read_blocks)


def hand_out_what_another_left(patch: pytest.MonkeyPatch) -> None:
    """One request's KV is found under another's id."""

    def oldest(self: HandoffShelf, request_id: str, waiting: Waiting, first_block: int) -> Iterator[bytes]:
        return fetch(self, request_id, next(iter(self._waiting.values()), waiting), first_block)

    patch.setattr(HandoffShelf, "_fetch", oldest)


def let_leases_last(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HandoffShelf, "expire", lambda self: None)


def tell_nobody(patch: pytest.MonkeyPatch) -> None:
    """A worker goes on with what nobody waits for."""
    patch.setattr(Door, "abort", lambda self, endpoint, request_id: None)


def abort_only_what_runs(patch: pytest.MonkeyPatch) -> None:
    """What still waits for its KV is begun all the same. This bug was ours."""
    patch.setattr(DecodeService, "abort", lambda self, request_id: self._driver.abort(request_id))


def blame_nobody(patch: pytest.MonkeyPatch) -> None:
    """A request that kills its workers is sent to the next."""
    patch.setattr(Loss, "is_death", False)


def keep_the_blocks_of_prompts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "release", lambda self, request_id: self._sequences.pop(request_id))


def charge_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "settle", lambda *args: None)


POOL_BUGS = [
    PoolBug(begin_again_from_the_prompt, "got .* and not"),
    PoolBug(call_every_attempt_the_same, "is already running"),
    PoolBug(count_a_token_twice, "got .* and not|is nothing to go on with"),
    PoolBug(give_the_first_token_again, "got .* and not|no logits"),
    PoolBug(check_no_checksums, "other KV|got .* and not"),
    PoolBug(take_frames_as_they_come, "other KV|got .* and not"),
    PoolBug(fetch_from_another_block, "other KV|got .* and not"),
    PoolBug(take_missing_blocks_for_others, "other KV|got .* and not|is free"),
    PoolBug(hand_out_what_another_left, "other KV|got .* and not"),
    PoolBug(let_leases_last, "has KV that waits"),
    PoolBug(tell_nobody, "no worker was told"),
    PoolBug(abort_only_what_runs, "which was aborted"),
    PoolBug(blame_nobody, "workers died of poison"),
    PoolBug(keep_the_blocks_of_prompts, "leaked|pinned"),
    PoolBug(charge_for_ever, "still charged"),
]
