"""What all parts of the pools' simulation share: one source of chance, one clock, and a record of what happened."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from tests.pool_simulation_loop import VirtualLoop
from workers import event_log
from workers.pools import kv_frames, prefill_worker

BLOCK_SIZE = 4
PLENTY = 2**30


@dataclass(frozen=True)
class Settings:
    """What differs from schedule to schedule. Rates are of messages, while there is chaos."""

    num_prefill: int
    num_decode: int
    num_blocks: int
    ahead: bool
    step_s: float
    latency_s: float
    lease_s: float
    shelf_bytes: int
    frame_bytes: int
    index: str
    retries: float
    starts_at_decode: float
    frame_faults: float
    stream_faults: float
    lost_aborts: float
    lost_cancellations: float
    slow_messages: float

    @classmethod
    def drawn(cls, rng: random.Random) -> "Settings":
        """At random."""
        return cls(
            num_prefill=rng.randint(1, 3),
            num_decode=rng.randint(1, 3),
            num_blocks=rng.choice((12, 13, 40)),
            ahead=rng.random() < 0.5,
            step_s=rng.choice((0.005, 0.02, 0.05)),
            latency_s=rng.choice((0.001, 0.01, 0.05)),
            lease_s=rng.choice((10.0, 10.0, 1.0, 0.05)),
            shelf_bytes=rng.choice((PLENTY, PLENTY, 1500)),
            frame_bytes=rng.choice((1, 128, 300, PLENTY)),
            index=rng.choice(("events", "events", "empty", "lies")),
            retries=rng.choice((256.0, 256.0, 256.0, 1.0)),
            starts_at_decode=rng.choice((0.0, 0.0, 0.3)),
            frame_faults=rng.choice((0.0, 0.05, 0.3)),
            stream_faults=rng.choice((0.0, 0.0, 0.01, 0.05)),
            lost_aborts=rng.choice((0.0, 0.3, 1.0)),
            lost_cancellations=rng.choice((0.0, 0.3, 1.0)),
            slow_messages=rng.choice((0.0, 0.02, 0.2)),
        )


class World:
    """One schedule's chance, clock and record.

    Attributes:
        events: what happened, line by line; the same from the same seed.
        seen: how often what happened.
        errors: what must not have happened.
        is_chaotic: whether faults may strike.
        jump_s: by how much the wall clock is wrong.
    """

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.rng = random.Random(seed)
        self.loop = loop
        self.settings = Settings.drawn(self.rng)
        self.events: list[str] = [str(self.settings)]
        self.seen: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.is_chaotic = True
        self.jump_s = 0.0
        self.quarantined: set[bytes] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def log(self, event: str) -> None:
        """Write down what happened."""
        self.events.append(f"{self.loop.time():.6f} {event}")

    def strikes(self, rate: float) -> bool:
        """Whether a fault of this rate strikes now."""
        return self.is_chaotic and self.rng.random() < rate

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have something done; an error in it is an error of the schedule."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)


@contextmanager
def virtual_clocks(world: World) -> Iterator[None]:
    """All that asks for the time, or for chance, gets the world's; frames are as small as the schedule wants them."""
    wall = SimpleNamespace(time=lambda: world.loop.time() + world.jump_s)
    names = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=f"{world.rng.getrandbits(64):x}"))
    with ExitStack() as stack:
        stack.enter_context(patch.object(event_log, "time", wall))
        stack.enter_context(patch.object(event_log, "uuid", names))
        stack.enter_context(patch.object(prefill_worker, "time", SimpleNamespace(perf_counter=world.loop.time)))
        stack.enter_context(patch.object(kv_frames, "FRAME_BYTES", world.settings.frame_bytes))
        yield
