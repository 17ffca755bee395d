"""Faults, one after the other: what strikes whom, and when all is whole again."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.faults.remote import Json, Remote

POOLS = ("decode", "prefill", "ingress")
SIGNALS = ("SIGKILL", "SIGSTOP", "SIGTERM")
NODE = "SIGKILL node"
KINDS = (*(f"{number} {pool}" for pool in POOLS for number in SIGNALS), NODE)
WEIGHTS = (4, 3, 2, 2, 2, 1, 1, 1, 1, 2)  # decode replicas hold the streams
WHOLE_TIMEOUT_S, POLL_S = 180.0, 0.5
STOPPED_S = (2.0, 12.0)  # some hangs end before anybody can be sure of them, some do not
PAUSE_S = (0.5, 2.0)


@dataclass
class Fault:
    """One fault.

    Attributes:
        kind: signal and whom it hit.
        at_s: when.
        ids: of the requests that were there, attempts' marks included.
        pools: that lost a replica.
        whole_s: when as many replicas as before answered again; infinite where they did not.
    """

    kind: str
    at_s: float
    ids: Sequence[str] = ()
    pools: Sequence[str] = ()
    whole_s: float = field(default=float("inf"))


class Injector:
    """Has faults happen, of kinds drawn with a seed."""

    def __init__(self, remote: Remote, seed: int, kinds: Sequence[str] = KINDS) -> None:
        self.faults: list[Fault] = []
        self._remote = remote
        self._rng = random.Random(seed)
        self._kinds = {kind: weight for kind, weight in zip(KINDS, WEIGHTS, strict=True) if kind in kinds}

    async def run(self, count: int, until_s: float) -> None:
        """So many, each when the cluster is whole again after the last, or fewer where time is over.

        Raises:
            RuntimeError: it does not become whole.
        """
        for number in range(count):
            if time.monotonic() > until_s:
                return
            await asyncio.sleep(self._rng.uniform(*PAUSE_S))
            (kind,) = self._rng.choices(list(self._kinds), list(self._kinds.values()))
            fault = await self._fault(kind)
            took_s = fault.whole_s - fault.at_s
            say(f"{number + 1}/{count} {kind}: {len(fault.ids)} requests, whole after {took_s:.1f} s")

    async def _fault(self, kind: str) -> Fault:
        if kind == NODE:
            return await self._lose_node()
        number, pool = kind.split()
        struck = await self._remote.do("strike", pool=pool, signal=number)
        fault = self._noted(Fault(kind, struck["at_s"], struck["ids"], [pool]))
        if number == "SIGSTOP":
            await asyncio.sleep(self._rng.uniform(*STOPPED_S))
            with contextlib.suppress(ProcessLookupError):  # it has been replaced
                os.kill(struck["pid"], signal.SIGCONT)
        await self.whole(fault, [] if number == "SIGSTOP" else [struck["name"]])
        return fault

    async def _lose_node(self) -> Fault:
        lost = await self._remote.do("kill_node")
        fault = self._noted(Fault(NODE, lost["at_s"], lost["ids"], lost["pools"]))
        await asyncio.sleep(self._rng.uniform(*PAUSE_S))
        await self._remote.do("restart_node")
        await self.whole(fault, lost["names"])
        return fault

    def _noted(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    async def whole(self, fault: Fault, gone: Sequence[str]) -> None:
        """Wait until every pool has its number of replicas that answer, the lost ones not among them.

        Raises RuntimeError where that takes too long.
        """
        end_s = time.monotonic() + WHOLE_TIMEOUT_S
        while not is_whole(looked := await self._remote.do("look"), gone):
            if time.monotonic() > end_s:
                raise RuntimeError(f"not whole {WHOLE_TIMEOUT_S:.0f} s after {fault.kind}: {looked['replicas']}")
            await asyncio.sleep(POLL_S)
        fault.whole_s = time.monotonic()


def is_whole(looked: Json, gone: Sequence[str] = ()) -> bool:
    """Whether every pool has as many constructed replicas as it should."""
    ready = [one["pool"] for one in looked["replicas"] if one["ready"] and one["name"] not in gone]
    return all(ready.count(pool) >= wanted for pool, wanted in looked["wanted"].items())


def say(line: str) -> None:
    """Progress, which must not mix with the figures."""
    print(line, file=sys.stderr, flush=True)
