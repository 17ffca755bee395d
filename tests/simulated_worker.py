"""A worker of `tests/event_simulation.py`: a real `PrefixCache` that is used at random, and its lives."""

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from radix.event_batch import EventBatch, Subscription
from radix.event_receiver import SILENCE_S
from radix.event_stream import EventStream, snapshot_parts
from radix.events import BlocksStored
from radix.prefix_cache import Lease, PrefixCache
from tests.cache_events import ROOT

if TYPE_CHECKING:
    from tests.event_simulation import Connection, Simulation

CHAOS_S = SILENCE_S + 0.5
DOCUMENTS = [[random.Random(number).randrange(4) for _ in range(48)] for number in range(3)]


class Worker:
    """A prefix cache in use. Its lives follow one another; each begins empty and has a stream of its own."""

    def __init__(self, simulation: "Simulation", name: str) -> None:
        self.simulation, self.rng, self.name = simulation, simulation.rng, name
        self.num_lives = 0
        self.connections: list[Connection] = []
        self.begin_life()
        simulation.after(0.0, self.work)

    def begin_life(self) -> None:
        self.num_lives += 1
        self.cache = PrefixCache(1, ROOT)
        self.leases: list[Lease] = []
        self.num_blocks = 0
        self.stream = EventStream(f"{self.name}.{self.num_lives}", self.rng.choice((1, 400, 2000, 10**6)))
        self.held_at: dict[Subscription, frozenset[int]] = {}
        self.remember()
        for connection in self.connections:
            connection.cut()
        self.connections = []

    def remember(self) -> None:
        """What is held after some of the batches of this life: all that a router may believe of it then."""
        self.held_at[Subscription(self.stream.epoch, self.stream.last_sequence)] = self.held()

    def held(self) -> frozenset[int]:
        return frozenset(block for event in self.cache.snapshot() for block in event.hashes)

    def work(self) -> None:
        """One step: a few changes, and the batch that tells of them."""
        for _ in range(self.rng.randint(1, 4)):
            actions = (self.admit, self.admit, self.release, self.evict)
            self.rng.choices((*actions, self.clear), cum_weights=(10, 20, 30, 40, 41))[0]()
        events = self.cache.take_events()
        if events:
            sequence = self.stream.last_sequence + 1
            self.stream.append(EventBatch(self.stream.epoch, sequence, self.simulation.now_s, events))
            if self.rng.random() < 0.3:
                self.remember()
            for connection in self.connections:
                connection.wake()
        delay_s = self.rng.expovariate(1 / 0.05)
        if self.simulation.now_s + delay_s < CHAOS_S:
            self.simulation.after(delay_s, self.work)

    def admit(self) -> None:
        document = self.rng.choice(DOCUMENTS)
        tokens = document[: self.rng.randint(0, 40)] + self.rng.choices(range(4), k=self.rng.randint(1, 4))
        hashes, content = chain(tokens), bytes(4 * len(tokens))
        match = self.cache.match(hashes, content)
        lease, at = self.cache.acquire(match), len(match.hashes)
        while at < len(hashes):
            end = self.rng.randint(at + 1, len(hashes))
            blocks = [self.num_blocks + number for number in range(end - at)]
            self.num_blocks += len(blocks)
            lease, _ = self.cache.extend(lease, hashes[at:end], blocks, content[4 * at : 4 * end])
            at = end
        self.leases.append(lease)

    def release(self) -> None:
        if self.leases:
            self.cache.release(self.leases.pop(self.rng.randrange(len(self.leases))))

    def evict(self) -> None:
        self.cache.evict(self.rng.randint(1, 30))

    def clear(self) -> None:
        while self.leases and self.rng.random() < 0.9:
            self.release()
        self.cache.clear()

    def snapshot(self) -> list[EventBatch]:
        held: Iterable[BlocksStored] = self.cache.snapshot()
        part_blocks = self.rng.choice((5, 20, 1000))
        return snapshot_parts(self.stream.epoch, self.stream.last_sequence, self.simulation.now_s, held, part_blocks)


def chain(tokens: list[int]) -> list[int]:
    """Hashes that commit to all before them."""
    hashes, last = [], ROOT
    for token in tokens:
        last = hash((last, token)) % 2**64
        hashes.append(last)
    return hashes
