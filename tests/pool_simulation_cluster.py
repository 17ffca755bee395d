"""The two pools of the simulation: places where workers live one life after another, and who looks after them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Literal

from tests.pool_simulation_network import Call, Network
from tests.pool_simulation_worker import DecodeLife, Life, PrefillLife, Publish
from tests.pool_simulation_world import World
from workers.pools.handoff_shelf import NoSuchHandoffError
from workers.pools.kv_frames import BadFrameError, ReceivedBlocks
from workers.pools.kv_handoff import KVTicket

PoolName = Literal["prefill", "decode"]
FRAME_TIMEOUT_S = 2.0  # as in cluster.kv_transfer
NOTHING = 2**31
HEALTH_S = 0.5


class Cluster:
    """All workers.

    Attributes:
        lives: who lives, or lived last, at each endpoint.
        on_change: called when workers have come or gone.
    """

    def __init__(self, world: World, network: Network, publish: Publish) -> None:
        self.world, self.network, self._publish = world, network, publish
        self.endpoints: dict[PoolName, list[str]] = {
            "prefill": [f"prefill{number}" for number in range(world.settings.num_prefill)],
            "decode": [f"decode{number}" for number in range(world.settings.num_decode)],
        }
        self.lives: dict[str, Life] = {}
        self.by_name: dict[str, Life] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._supervisors: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for endpoint in self.places:
            self.begin_life(endpoint)
            self._supervisors.append(self.world.spawn(self._supervise(endpoint)))

    @property
    def places(self) -> list[str]:
        return self.endpoints["prefill"] + self.endpoints["decode"]

    def members(self, pool: PoolName) -> list[str]:
        """Workers that are taken to be alive: those that hang or cannot be reached are among them."""
        lives = [self.lives[endpoint] for endpoint in self.endpoints[pool]]
        return [life.name for life in lives if not (life.is_dead or life.is_leaving)]

    def begin_life(self, endpoint: str) -> None:
        """Start a worker with an empty cache where none lives."""
        number = sum(life.endpoint == endpoint for life in self.by_name.values())
        life: Life
        if endpoint in self.endpoints["prefill"]:
            life = PrefillLife(self.world, self.network, endpoint, number, self._publish)
        else:
            fetch = partial(self._fetch, f"{endpoint}/{number}")
            life = DecodeLife(self.world, self.network, endpoint, number, self._publish, fetch)
        self.lives[endpoint] = self.by_name[life.name] = life
        self.on_change()

    def end_life(self, life: Life, *, unheard: bool = False, away_s: float | None = None) -> None:
        """Kill a worker; another takes its place after a while."""
        if life.is_dead:
            return
        self.world.log(f"{life.name} dies")
        life.crash(unheard=unheard)
        self.on_change()
        restart_s = self.world.rng.choice((0.01, 0.2, 3.0))
        self.world.loop.call_later(away_s or restart_s, self.begin_life, life.endpoint)

    async def _supervise(self, endpoint: str) -> None:
        """Kill what has failed or hangs, and what has been asked to leave once it is done."""
        while True:
            await asyncio.sleep(HEALTH_S)
            life = self.lives[endpoint]
            if life.is_frozen or life.is_dead:
                continue
            drained = life.is_leaving and not life.driver.num_streams and not waits(life)
            if drained or not life.is_healthy:
                self.end_life(life)

    def stop(self) -> None:
        """End all that would go on for ever."""
        for task in self._supervisors:
            task.cancel()
        for life in self.lives.values():
            life.driver.stop()

    async def _fetch(self, receiver: str, ticket: KVTicket, blocks: ReceivedBlocks) -> None:
        """As `cluster.kv_transfer.WorkerClient.fetch`."""
        host = self.lives[ticket.endpoint]
        assert isinstance(host, PrefillLife)
        start = partial(frames, host, ticket, blocks.first_block if blocks.num_missing else NOTHING)
        call = Call(self.world, self.network, receiver, host, start, self._mangle)
        stream = call.items()
        try:
            while (frame := await self._next(stream)) is not None:
                blocks.add(frame)
            if blocks.num_missing:
                raise NoSuchHandoffError
            self.world.seen["whole transfers"] += 1
        except Exception as error:
            kind = "foreign tickets" if ticket.epoch != host.driver.epoch else transfer_ended_by(error)
            self.world.seen[kind] += 1
            raise
        finally:
            await stream.aclose()

    async def _next(self, stream: AsyncGenerator[Any]) -> Any:
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            return await anext(stream, None)

    def _mangle(self, frame: bytes) -> list[bytes]:
        """What the network makes of a frame."""
        if not self.world.strikes(self.world.settings.frame_faults):
            return [frame]
        kind = self.world.rng.choice(("lost", "doubled", "flipped", "cut"))
        self.world.seen[f"{kind} frames"] += 1
        at = self.world.rng.randrange(len(frame))
        flipped = frame[:at] + bytes([frame[at] ^ 1 << self.world.rng.randrange(8)]) + frame[at + 1 :]
        return {"lost": [], "doubled": [frame] * 2, "flipped": [flipped], "cut": [frame[:at]]}[kind]


async def frames(host: PrefillLife, ticket: KVTicket, first_block: int) -> AsyncGenerator[Any]:
    """As `cluster.kv_transfer.serve_kv`."""
    for frame in host.shelf.frames(ticket.epoch, ticket.request_id, ticket.token_digest, first_block):
        yield frame
        await asyncio.sleep(0)


def waits(life: Life) -> bool:
    """Whether KV on its shelf may still be fetched."""
    return isinstance(life, PrefillLife) and bool(len(life.shelf))


def transfer_ended_by(error: Exception) -> str:
    """What kind of error it is."""
    match error:
        case BadFrameError():
            return "bad frames"
        case NoSuchHandoffError():
            return "KV that is gone"
        case TimeoutError():
            return "silent transfers"
    return "broken transfers"
