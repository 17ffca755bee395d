"""Requests, two pools of workers, and all that can befall them, in virtual time and from one seed.

What runs is the real thing: `Journey`, the services, the shelf, frames, routers, and `AsyncWorker` but for its thread.
The model is the integer witness, whose next token is a hash of all KV that is read. Around them is a network that
delays, loses, repeats, overtakes, damages and breaks, and workers that crash, hang, freeze, fail and leave.
`python -m tests.pool_simulation SEED` replays one schedule and prints what happened.
"""

import asyncio
import gc
import sys
from collections.abc import Callable
from dataclasses import replace

from radix.event_batch import EventBatch
from tests.pool_simulation_client import Client, draw_request
from tests.pool_simulation_cluster import Cluster
from tests.pool_simulation_door import Door
from tests.pool_simulation_faults import plan
from tests.pool_simulation_loop import VirtualLoop
from tests.pool_simulation_network import Network
from tests.pool_simulation_worker import Life
from tests.pool_simulation_world import World, virtual_clocks

CHAOS_S = 8.0
BOUND_S = 45.0  # until every request is over once nothing goes wrong any more
QUIET_S = 45.0  # until nothing is left of any
LAST_MESSAGES_S = 2.0


class Simulation:
    """One schedule. `run` raises AssertionError where something went wrong that may not."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.world = World(seed, self.loop)
        self.network = Network(self.world)
        self.cluster = Cluster(self.world, self.network, self._publish)
        self.doors: list[Door] = []

    def run(self) -> None:
        gc_was_enabled = gc.isenabled()
        gc.disable()  # so that nothing is finalised at another moment when it is replayed
        try:
            with virtual_clocks(self.world):
                self.loop.run_until_complete(self._main())
        finally:
            self.loop.close()
            if gc_was_enabled:
                gc.enable()

    async def _main(self) -> None:
        rng = self.world.rng
        self.doors = [Door(self.world, self.cluster, f"door{number}") for number in range(rng.randint(1, 2))]
        self.cluster.on_change = self._tell_doors
        self.cluster.start()
        for door in self.doors:
            door.refresh()
        self._clients = self._make_clients()
        plan(self, CHAOS_S)
        running = [self.world.spawn(client.run()) for client in self._clients]
        await asyncio.sleep(CHAOS_S)
        self._end_chaos()
        _, late = await asyncio.wait(running, timeout=BOUND_S)
        self._raise_errors()
        assert not late, f"{len(late)} requests are not over"
        await self._until_quiet()
        self._check()
        await self._stop()

    def _make_clients(self) -> list[Client]:
        rng = self.world.rng
        clients, latest_s = [], rng.choice((0.3, 3.0, CHAOS_S))
        for number in range(rng.randint(2, 8)):
            name = f"{'poison' if rng.random() < 0.03 else 'r'}{number}"
            request = draw_request(rng, name)
            clients.append(Client(self.world, rng.choice(self.doors), request, rng.uniform(0, latest_s), stays=False))
        last = replace(draw_request(rng, "last"), timeout_s=None)
        return [*clients, Client(self.world, rng.choice(self.doors), last, CHAOS_S + 20, stays=True)]

    def _end_chaos(self) -> None:
        self.world.log("no more faults")
        self.world.is_chaotic = False
        self.network.heal()
        for life in self.cluster.lives.values():
            life.recover()

    async def _until_quiet(self) -> None:
        end_s = self.loop.time() + QUIET_S
        while self._leftovers() and self.loop.time() < end_s:
            await asyncio.sleep(0.5)

    def _leftovers(self) -> list[str]:
        living = [life for life in self.cluster.lives.values() if not life.is_dead]
        charges = sum(view.router.table.num_open for door in self.doors for view in door.pools.values())
        left = [text for life in living for text in life.leftovers]
        left += [f"{endpoint} is dead" for endpoint, life in self.cluster.lives.items() if life.is_dead]
        return left + [f"{charges} requests are still charged"] * bool(charges)

    def _check(self) -> None:
        """After all is over and nothing went wrong for a while."""
        self._raise_errors()
        left = self._leftovers()
        assert not left, "; ".join(left)
        assert self._clients[-1].end == "finished" or self._clients[-1].end == "QuarantinedError", "faults linger"
        untold = [request_id for door in self.doors for request_id in door.untold]
        assert not untold, f"no worker was told that nobody waits for {untold}"
        for client in self._clients:
            poisoned = client.request.request_id.startswith("poison")
            assert not (poisoned and client.end == "finished"), "a worker survived poison"
            num_deaths = client.door.num_deaths[client.request.request_id]
            assert not poisoned or num_deaths <= 3, f"{num_deaths} workers died of poison"

    async def _stop(self) -> None:
        """When those who look after the workers have gone, nobody is left who waits for anything."""
        for life in self.cluster.by_name.values():
            self.world.seen["preemptions"] += life.engine.seen["preemptions"]
            self.world.seen["imports"] += life.engine.seen["imports"]
        self.cluster.stop()
        await asyncio.sleep(LAST_MESSAGES_S)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"tasks go on: {others}"
        assert not self.loop.timers, f"timers go on: {self.loop.timers}"
        assert not self.loop.num_abandoned, "a generator was left open"
        self._raise_errors()

    def _raise_errors(self) -> None:
        if self.world.errors:
            raise self.world.errors[0]

    def _publish(self, life: Life, batch: EventBatch) -> None:
        for door in self.doors:
            if not self.world.strikes(0.05):
                self.world.spawn(self._bring(door, life, batch))

    async def _bring(self, door: Door, life: Life, batch: EventBatch) -> None:
        await self.network.travel(life.name, door.name, life)
        pool = "prefill" if life.endpoint in self.cluster.endpoints["prefill"] else "decode"
        door.pools[pool].receive(life.name, batch)  # type: ignore[index]

    def _tell_doors(self) -> None:
        """Each hears of it in its own time."""
        for door in self.doors:
            refresh: Callable[[], None] = door.refresh
            self.loop.call_later(self.world.rng.uniform(0.01, 0.5), refresh)


if __name__ == "__main__":
    simulation = Simulation(int(sys.argv[1]))
    try:
        simulation.run()
    finally:
        print("\n".join(simulation.world.events))
        print(dict(simulation.world.seen))
