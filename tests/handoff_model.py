"""The hand-off of two requests between two workers, in every order in which it can happen.

The shelf and the received blocks are the real ones, copied for each way a state goes on. Each block says whose it is,
so that one that is read in another's place is noticed.
"""

from collections import deque
from contextlib import suppress
from itertools import permutations
from typing import NamedTuple, TypeVar

import numpy as np
import pytest
import torch

from workers.pools import kv_frames
from workers.pools.handoff_shelf import HandoffShelf, NoSuchHandoffError
from workers.pools.kv_frames import ReceivedBlocks
from workers.pools.kv_handoff import KVTicket, Prefilled, digest_tokens

LEASE_S, NUM_BLOCKS, BLOCK_BYTES = 10.0, 2, 8
SHAPE = (1, 1, 1, 1, 1)  # a block is one token, and one number that names all tokens up to it
Action = tuple[str, int]
Tokens = tuple[int, ...]
Thing = TypeVar("Thing")


class Limits(NamedTuple):
    """How often what may happen; together with what a hand-off needs, that makes finitely many states.

    Attributes:
        ids_are_reused: attempts share their request's id, so that only the tokens tell them apart.
        capacity: hand-offs that the shelf has room for.
    """

    requests: int = 2
    attempts: int = 2
    prefill_crashes: int = 1
    decode_crashes: int = 1
    lease_ends: int = 1
    ids_are_reused: bool = False
    capacity: int = 2


class Fetch:
    """A fetch that has begun, of what waits at a shelf under a ticket."""

    def __init__(self, shelf: HandoffShelf, ticket: KVTicket, blocks: ReceivedBlocks, tokens: Tokens) -> None:
        self.frames = shelf.frames(ticket.epoch, ticket.request_id, ticket.token_digest, blocks.first_block)
        self.waiting = shelf._waiting[ticket.request_id]
        self.ticket, self.blocks, self.tokens = ticket, blocks, tokens
        self.num_sent = 0

    def copy(self, shelf: HandoffShelf) -> "Fetch":
        """The same at a copy of the shelf, which has sent as much."""
        other = twin(self)
        other.blocks = twin(self.blocks)
        other.blocks._blocks = self.blocks._blocks.clone()
        other.frames = shelf._fetch(self.ticket.request_id, self.waiting, self.blocks.first_block)
        for _ in range(self.num_sent):
            next(other.frames)
        return other


class Request:
    """What the front door and the decode worker know of one request; `tickets` are those of all its attempts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.attempt = 0
        self.is_put = self.is_over = False
        self.tickets: list[KVTicket] = []
        self.fetches: list[Fetch] = []

    @property
    def tokens(self) -> Tokens:
        return self.tokens_of(self.attempt)

    def copy(self, shelf: HandoffShelf) -> "Request":
        """The same at a copy of the shelf."""
        other = twin(self)
        other.tickets = list(self.tickets)
        other.fetches = [fetch.copy(shelf) for fetch in self.fetches]
        return other

    def tokens_of(self, attempt: int) -> Tokens:
        """All attempts begin alike; the later ones have another last token."""
        return (self.number, 10 + attempt)


class Model:
    """One state. Every method whose name is an action's changes it; `check` says whether it is a good one."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._now_s = 0.0
        self._left = {"end_leases": limits.lease_ends, "crash": limits.prefill_crashes, "lose": limits.decode_crashes}
        self._num_lives = 0
        self._requests = [Request(number) for number in range(limits.requests)]
        self._digests = {digest_tokens(request.tokens_of(0)) for request in self._requests}
        self.path: tuple[Action, ...] = ()
        self._begin_life()

    def copy(self) -> "Model":
        """Another that can go another way."""
        other = twin(self)
        other._left = dict(self._left)
        other._shelf = twin(self._shelf)
        other._shelf._waiting = dict(self._shelf._waiting)
        other._shelf._clock = lambda: other._now_s
        other._requests = [request.copy(other._shelf) for request in self._requests]
        return other

    def actions(self) -> list[Action]:
        """What can happen now."""
        found: list[Action] = [(name, 0) for name, left in self._left.items() if left]
        for request in self._requests:
            may = {
                "put": not (request.is_put or request.is_over),
                "begin": bool(request.tickets) and not request.fetches,
                "begin_late": len(request.tickets) > 1 and len(request.fetches) < 2,
                "begin_at_1": bool(request.tickets) and not request.fetches,
                "deliver": bool(request.fetches),
                "deliver_old": len(request.fetches) > 1,
                "resume": not request.is_over and request.attempt + 1 < self._limits.attempts,
                "abort": not request.is_over,
            }
            found += [(name, request.number) for name, can in may.items() if can]
        return found

    def apply(self, action: Action) -> None:
        """Let it happen, and look whether all is well."""
        name, number = action
        self.path = (*self.path, action)
        if name in self._left:
            self._left[name] -= 1
        getattr(self, f"_{name}")(self._requests[number])
        self.check()

    def keys(self) -> list[tuple[object, ...]]:
        """Some are equal for states from which the same can happen: what the requests are called does not matter."""
        return [self._key(order) for order in permutations(range(self._limits.requests))]

    def _key(self, order: tuple[int, ...]) -> tuple[object, ...]:
        shelf = tuple(
            (order[int(name[1])], name[2:], waiting.token_digest in self._digests, waiting.deadline_s > self._now_s)
            for name, waiting in self._shelf._waiting.items()
        )
        requests = tuple(
            (r.attempt, r.is_put, r.is_over, tuple(t.epoch for t in r.tickets), tuple(map(self._progress, r.fetches)))
            for r in (self._requests[number] for number in order)
        )
        return shelf, self._num_lives, tuple(self._left.values()), requests

    def check(self) -> None:
        """No block is another's, and the shelf knows what it holds."""
        for request in self._requests:
            for fetch in request.fetches:
                first = fetch.blocks.first_block
                read = fetch.blocks.read_blocks(first).flatten().tolist()
                assert read == names_of(fetch.tokens)[first : first + len(read)], "a block is read that is another's"
        held = sum(waiting.blocks.nbytes for waiting in self._shelf._waiting.values())
        assert self._shelf.num_bytes == held, "something was released twice, or not counted"
        assert held <= self._limits.capacity * NUM_BLOCKS * BLOCK_BYTES, "the shelf is too full"

    def check_end(self) -> None:
        """Whatever happens no more, all that was put is gone when the leases are over."""
        shelf = twin(self._shelf)
        shelf._waiting, end_s = dict(shelf._waiting), self._now_s + LEASE_S
        shelf._clock = lambda: end_s
        assert (len(shelf), shelf.num_bytes) == (0, 0), "something waits for ever"

    def _begin_life(self) -> None:
        self._num_lives += 1
        room = self._limits.capacity * NUM_BLOCKS * BLOCK_BYTES
        self._shelf = HandoffShelf(f"life {self._num_lives}", LEASE_S, room, lambda: self._now_s)

    def _id(self, request: Request) -> str:
        return f"r{request.number}" + f"#{request.attempt}" * (not self._limits.ids_are_reused)

    def _put(self, request: Request) -> None:
        request.is_put = True
        blocks = np.array(names_of(request.tokens), np.int64).view(np.uint8).reshape(NUM_BLOCKS, BLOCK_BYTES)
        ticket = self._shelf.put(self._id(request), blocks, "prefill", digest_tokens(request.tokens))
        request.tickets.append(ticket)

    def _begin(self, request: Request, at: int = -1, held: int = 0) -> None:
        """Ask for the KV of an attempt, as that attempt's decode worker does."""
        ticket = request.tickets[at]
        attempts = [request.tokens_of(attempt) for attempt in range(self._limits.attempts)]
        tokens = next(tokens for tokens in attempts if digest_tokens(tokens) == ticket.token_digest)
        prefilled = Prefilled(ticket.request_id, "layout", ticket.token_digest, len(tokens), 0, 0, None)
        blocks = ReceivedBlocks(prefilled, tokens, "layout", SHAPE, torch.int64, held)
        with suppress(NoSuchHandoffError):
            request.fetches.append(Fetch(self._shelf, ticket, blocks, tokens))

    def _begin_late(self, request: Request) -> None:
        """A zombie asks for what its attempt, which was given up, had."""
        self._begin(request, at=0)

    def _begin_at_1(self, request: Request) -> None:
        """The receiver holds the first block."""
        self._begin(request, held=1)

    def _deliver(self, request: Request, at: int = -1) -> None:
        """The next frame arrives; the end of the frames ends the fetch."""
        fetch = request.fetches[at]
        frame = next(fetch.frames, None) if fetch.ticket.epoch == self._shelf.epoch else None
        if frame is None:
            request.fetches.pop(at)
        else:
            fetch.num_sent += 1
            fetch.blocks.add(frame)

    def _deliver_old(self, request: Request) -> None:
        self._deliver(request, at=0)

    def _resume(self, request: Request) -> None:
        """The front door has lost a worker, or believes so; what the attempt left is still there."""
        request.attempt += 1
        request.is_put = False

    def _abort(self, request: Request) -> None:
        """The client has gone, and the prefill worker hears of it."""
        request.is_over = True
        self._shelf.release(self._id(request))

    def _end_leases(self, _: Request) -> None:
        self._now_s += LEASE_S

    def _crash(self, _: Request) -> None:
        """The prefill worker begins another life at the same address."""
        self._begin_life()

    def _lose(self, _: Request) -> None:
        """The decode worker crashes; what it was fetching is fetched by nobody."""
        for request in self._requests:
            request.fetches.clear()

    def _progress(self, fetch: Fetch) -> tuple[object, ...]:
        lives, missing = fetch.ticket.epoch == self._shelf.epoch, fetch.blocks.num_missing
        waits = self._shelf._waiting.get(fetch.ticket.request_id) is fetch.waiting
        return fetch.tokens[-1], fetch.blocks.first_block, missing, lives, waits


def names_of(tokens: Tokens) -> list[int]:
    """What the blocks hold: each all tokens up to it."""
    return [
        sum(token << 8 * place for place, token in enumerate(tokens[: end + 1])) + end for end in range(len(tokens))
    ]


def twin(thing: Thing) -> Thing:
    """A copy that shares all attributes; quicker than `copy.copy`."""
    other: Thing = object.__new__(type(thing))
    other.__dict__.update(thing.__dict__)
    return other


def explore(limits: Limits) -> int:
    """Go everywhere, the nearest first; returns how many states there are. Raises AssertionError at a bad one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_frames, "FRAME_BYTES", 1)  # a block each
        first = Model(limits)
        known, waiting = set(first.keys()[:1]), deque([first])
        while waiting:
            model = waiting.popleft()
            for action in model.actions():
                other = model.copy()
                step(other, action)
                keys = other.keys()
                if known.isdisjoint(keys):
                    known.add(keys[0])
                    waiting.append(other)
    return len(known)


def step(model: Model, action: Action) -> None:
    """Let something happen, and see that it ends well if nothing else does."""
    try:
        model.apply(action)
        model.check_end()
    except AssertionError as error:
        raise AssertionError(f"{error}, after {model.path}") from error
