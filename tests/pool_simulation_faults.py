"""What may befall the workers of the pools' simulation, besides what the network does to messages."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.pool_simulation_worker import Life

if TYPE_CHECKING:
    from tests.pool_simulation import Simulation


def any_life(simulation: "Simulation") -> Life:
    """A worker, one that does something if there is one."""
    lives = [simulation.cluster.lives[endpoint] for endpoint in simulation.cluster.places]
    alive = [life for life in lives if not life.is_dead] or lives
    busy = [life for life in alive if life.engine.has_work] or alive
    return simulation.world.rng.choice(busy)


def crash(simulation: "Simulation") -> None:
    """A process is killed, and whoever waits for it is told."""
    simulation.cluster.end_life(any_life(simulation))


def vanish(simulation: "Simulation") -> None:
    """A machine is gone, and nobody says so."""
    simulation.cluster.end_life(any_life(simulation), unheard=True)


def outage(simulation: "Simulation") -> None:
    """All of a pool die, and nobody comes for a while."""
    cluster = simulation.cluster
    for endpoint in cluster.endpoints[simulation.world.rng.choice(("prefill", "decode"))]:
        cluster.end_life(cluster.lives[endpoint], away_s=12.0)


def freeze(simulation: "Simulation") -> None:
    """A process stops, and goes on later as a zombie."""
    life, rng = any_life(simulation), simulation.world.rng
    life.freeze()
    simulation.world.loop.call_later(rng.choice((1.0, 5.0, 12.0)), life.thaw)


def hang(simulation: "Simulation") -> None:
    """A step takes longer than it may, or nearly."""
    any_life(simulation).hang(simulation.world.rng.choice((3.0, 7.0, 20.0)))


def fail(simulation: "Simulation") -> None:
    """A step raises an error."""
    any_life(simulation).fail()


def drain(simulation: "Simulation") -> None:
    """A worker is asked to stop."""
    life = any_life(simulation)
    if not life.is_dead:
        life.leave()
        simulation.cluster.on_change()


def part(simulation: "Simulation") -> None:
    """Two can reach each other no more, or only one the other."""
    network, rng = simulation.network, simulation.world.rng
    one = any_life(simulation).name
    other = rng.choice([door.name for door in simulation.doors] + list(simulation.cluster.by_name))
    ways = [(one, other), (other, one)]
    for way in rng.choice((ways, ways[:1], ways[1:])):
        network.block(*way)
    simulation.world.loop.call_later(rng.choice((0.5, 3.0, 8.0)), network.heal)


def jump(simulation: "Simulation") -> None:
    """The wall clock is set."""
    simulation.world.jump_s += simulation.world.rng.uniform(-3600, 3600)


def forget(simulation: "Simulation") -> None:
    """A front door's routers begin again."""
    simulation.world.rng.choice(simulation.doors).forget()


def clear(simulation: "Simulation") -> None:
    """A prefix cache is emptied."""
    life = any_life(simulation)
    if not life.is_dead:
        simulation.world.spawn(swallow(life))


async def swallow(life: Life) -> None:
    """Between two steps, if the worker lives to see it."""
    life.driver._submit(life.engine.reset_prefix_cache)


FAULTS: list[Callable[["Simulation"], None]] = [
    crash, crash, vanish, outage, freeze, freeze, hang, fail, drain, part, part, jump, forget, clear
]  # fmt: skip


def strike(simulation: "Simulation", fault: Callable[["Simulation"], None]) -> None:
    """Let a fault happen, unless its time is over."""
    if simulation.world.is_chaotic:
        simulation.world.log(f"fault: {fault.__name__}")
        simulation.world.seen[f"fault {fault.__name__}"] += 1
        fault(simulation)


def plan(simulation: "Simulation", chaos_s: float) -> None:
    """Draw what will happen and when."""
    rng = simulation.world.rng
    for _ in range(rng.choice((0, 1, 2, 4, 8))):
        simulation.world.loop.call_later(rng.uniform(0, chaos_s), partial(strike, simulation, rng.choice(FAULTS)))
