"""Workers, routers and a bad network between them, in virtual time and from one seed.

Workers are real `PrefixCache`s that are used at random, routers are real `PrefixIndex`es; between them is the protocol
of `radix/event_stream.py` and `radix/event_receiver.py`, over connections that lose, repeat, delay, overtake, damage,
stall and break. `python -m tests.event_simulation SEED` replays one schedule.
"""

import heapq
import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from radix.event_batch import Subscription, read_batches
from radix.event_receiver import SILENCE_S, EventReceiver
from radix.event_stream import HEARTBEAT_S, still_here
from radix.events import BlocksStored
from radix.prefix_index import PrefixIndex
from tests.cache_events import ROOT, orphan
from tests.simulated_worker import CHAOS_S, Worker

LINGER_S, RETRY_S = 0.005, 0.2
QUIET_S = 1.0
LATENCY_S = (0.0005, 0.02)

Messages = list[tuple[float, bytes]]  # copies of one message, with their delays


class Simulation:
    """One schedule. `run` raises AssertionError where the protocol has failed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.workers = [Worker(self, f"w{number}") for number in range(self.rng.randint(1, 3))]
        self.routers = [Router(self) for _ in range(self.rng.randint(1, 2))]
        self.message_faults = self.rng.sample(MESSAGE_FAULTS, self.rng.randint(0, 3))
        self.fault_rate = self.rng.choice((0.02, 0.1, 0.3))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now_s + delay_s, self._count, action))

    @property
    def is_chaotic(self) -> bool:
        """Whether the network may still do what it likes: lose, repeat, damage, or let one overtake another."""
        return self.now_s < CHAOS_S

    def run(self) -> None:
        for _ in range(self.rng.randint(0, 6)):
            fault, latest_s = self.rng.choice(CLUSTER_FAULTS)
            self.after(self.rng.uniform(0, latest_s), partial(fault, self))
        while self._agenda[0][0] < CHAOS_S + QUIET_S:
            self.now_s, _, action = heapq.heappop(self._agenda)
            action()
        for router in self.routers:
            router.check()

    def copies(self, message: bytes) -> Messages:
        """What the network makes of a message."""
        if not self.is_chaotic:
            return [(LATENCY_S[1], message)]
        copies = [(self.rng.uniform(*LATENCY_S), message)]
        if self.message_faults and self.rng.random() < self.fault_rate:
            copies = self.rng.choice(self.message_faults)(self.rng, copies)
        return copies

    def any_connection(self) -> "Connection":
        return self.rng.choice(list(self.rng.choice(self.routers).connections.values()))


class Connection:
    """One stream from a worker's life to a router, the worker's end of it included."""

    def __init__(self, router: "Router", worker: Worker) -> None:
        self.router, self.worker, self.simulation = router, worker, router.simulation
        self.is_open, self.is_frozen, self.is_awake = True, False, False
        self.stalled_until_s = 0.0
        self.sent_s = 0.0
        self.watched_until_s = math.inf
        self.place: Subscription | None = None

    def request(self, place: Subscription) -> None:
        self.worker.connections.append(self)
        request = place.to_bytes()
        self.later(self.simulation.rng.uniform(*LATENCY_S), lambda: self.accept(Subscription.from_bytes(request)))

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something unless the connection is closed by then."""
        self.simulation.after(delay_s, lambda: action() if self.is_open else None)

    def accept(self, place: Subscription) -> None:
        self.later(HEARTBEAT_S, self.beat)
        if self.worker.stream.after(place) is None:
            self.later(self.simulation.rng.choice((0.0, 0.0, 0.01, 0.1)), self.send_snapshot)
        else:
            self.place = place
            self.begin_to_follow()

    def send_snapshot(self) -> None:
        for part in self.worker.snapshot():
            self.send(part.to_bytes())
        self.place = Subscription(part.epoch, part.sequence)
        self.begin_to_follow()

    def begin_to_follow(self) -> None:
        self.send(self.worker.stream.heartbeat(self.simulation.now_s))
        self.wake()

    def beat(self) -> None:
        """Every now and then, where nothing else was sent."""
        now_s = self.simulation.now_s
        if now_s - self.sent_s >= HEARTBEAT_S:
            self.send(self.worker.stream.heartbeat(now_s) if self.place else still_here(now_s))
        self.later(max(LINGER_S, HEARTBEAT_S - (now_s - self.sent_s)), self.beat)

    def wake(self) -> None:
        """There is news: send it in a moment."""
        if self.place and not self.is_awake:
            self.is_awake = True
            self.later(max(LINGER_S, self.stalled_until_s - self.simulation.now_s), self.send_news)

    def send_news(self) -> None:
        self.is_awake = False
        while self.place:
            after = self.worker.stream.after(self.place)
            if after is None:
                return self.cut()
            message, self.place = after
            if not message:
                return None
            self.send(message)
        return None

    def send(self, message: bytes) -> None:
        self.sent_s = self.simulation.now_s
        for delay_s, copy in self.simulation.copies(message):
            self.later(delay_s, partial(self.arrive, copy))

    def arrive(self, message: bytes) -> None:
        if not self.is_frozen:
            self.router.deliver(self, message)

    def cut(self) -> None:
        """Both ends notice."""
        if self.is_open:
            self.is_open = False
            self.router.lost(self)


class Router:
    """An index, and a receiver and a connection for each worker."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.connections: dict[str, Connection] = {}
        simulation.after(0.0, self.begin_life)

    def begin_life(self) -> None:
        for connection in self.connections.values():
            connection.is_open = False
        self.max_parked = self.simulation.rng.choice((2, 8, 1024))
        self.index = PrefixIndex(ROOT)
        self.receivers = {
            worker.name: EventReceiver(worker.name, self.index, self.max_parked) for worker in self.simulation.workers
        }
        for worker in self.simulation.workers:
            self.connect(worker)

    def connect(self, worker: Worker) -> None:
        connection = Connection(self, worker)
        self.connections[worker.name] = connection
        connection.request(self.receivers[worker.name].subscribe(self.simulation.now_s))
        self.watch(connection)

    def watch(self, connection: Connection) -> None:
        """Give the connection up when the receiver does."""
        deadline_s = self.receivers[connection.worker.name].deadline_s()
        if deadline_s <= self.simulation.now_s:
            connection.is_open = False
            self.connect(connection.worker)
        elif deadline_s < connection.watched_until_s:
            connection.watched_until_s = deadline_s
            connection.later(
                deadline_s - self.simulation.now_s + 1e-6, lambda: self.watch_again(connection, deadline_s)
            )

    def watch_again(self, connection: Connection, deadline_s: float) -> None:
        if connection.watched_until_s == deadline_s:
            connection.watched_until_s = math.inf
            self.watch(connection)

    def lost(self, connection: Connection) -> None:
        if self.connections.get(connection.worker.name) is connection:
            self.simulation.after(RETRY_S, lambda: self.reconnect(connection))

    def reconnect(self, lost: Connection) -> None:
        if self.connections[lost.worker.name] is lost:
            self.connect(lost.worker)

    def deliver(self, connection: Connection, message: bytes) -> None:
        receiver = self.receivers[connection.worker.name]
        for batch in read_batches(message):
            receiver.receive(batch, self.simulation.now_s)
            assert receiver.num_parked <= self.max_parked, "the table of parked batches is over its bound"
        if self.simulation.rng.random() < 0.1:
            self.check_moment(connection.worker)
        self.watch(connection)

    def check_moment(self, worker: Worker) -> None:
        """At every moment the index has exactly what the worker held after some batch."""
        held = worker.held_at.get(self.receivers[worker.name].place)
        assert held is None or self.index.blocks_of(worker.name) == held, f"{worker.name} never held just that"

    def check(self) -> None:
        """After a quiet second."""
        self.index.check_integrity()
        for worker in self.simulation.workers:
            assert self.index.blocks_of(worker.name) == worker.held(), f"{worker.name} holds something else"
        held = frozenset[int]().union(*(worker.held() for worker in self.simulation.workers))
        assert self.index.num_blocks == len(held), "the index has blocks that nobody holds"


def damaged(message: bytes) -> bytes:
    """The same with an operation that follows a block nobody ever heard of."""
    first, *others = read_batches(message)
    events = [orphan(*event.hashes) if isinstance(event, BlocksStored) else event for event in first.events]
    return b"".join(batch.to_bytes() for batch in (replace(first, events=events), *others))


MESSAGE_FAULTS: list[Callable[[random.Random, Messages], Messages]] = [
    lambda rng, copies: [],
    lambda rng, copies: copies * 2,
    lambda rng, copies: [*copies, *[(delay_s + rng.uniform(0, 0.5), message) for delay_s, message in copies]],
    lambda rng, copies: [(delay_s + rng.uniform(0, 0.15), message) for delay_s, message in copies],
    lambda rng, copies: [(delay_s, damaged(message)) for delay_s, message in copies],
]
CLUSTER_FAULTS: list[tuple[Callable[[Simulation], None], float]] = [  # with the latest time at which it may strike
    (lambda simulation: simulation.any_connection().cut(), CHAOS_S),
    (lambda simulation: simulation.rng.choice(simulation.workers).begin_life(), CHAOS_S),
    (lambda simulation: simulation.rng.choice(simulation.routers).begin_life(), CHAOS_S),
    (lambda simulation: setattr(simulation.any_connection(), "stalled_until_s", simulation.now_s + 0.4), CHAOS_S),
    (lambda simulation: setattr(simulation.any_connection(), "is_frozen", True), CHAOS_S - SILENCE_S),
]


if __name__ == "__main__":
    Simulation(int(sys.argv[1])).run()
    print("the indexes equal the caches")
