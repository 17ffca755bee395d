"""One stream of 64 tokens, whose decode replica dies at each of them in turn."""

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise

from bench.faults.client import complete
from bench.faults.compare import Difference, difference, percentile
from bench.faults.inject import Fault, Injector, say
from bench.faults.remote import Json, Remote
from bench.faults.report import rounded
from bench.faults.requests import bodies, undisturbed

NUM_TOKENS = 64


async def sweep(spoken: Remote, port: int, step: int) -> Json:
    """The prefill draws token 0, so the decode replica can die at 1 at the earliest."""
    (asked,) = bodies(2, NUM_TOKENS)[1:]
    case = await undisturbed(port, asked)
    injector = Injector(spoken, seed=0)
    total, failed, waits_s = Difference(), [], list[float]()
    for index in range(1, NUM_TOKENS, step):
        before = await spoken.do("look")
        await spoken.do("die_at", tokens=index)
        heard = await complete(port, asked)
        differs = difference(list(heard.text), list(case.text))
        total += differs
        if heard.error or differs or heard.num_tokens != case.num_tokens:
            failed.append(index)
        waits_s.append(longest_wait_s([heard.sent_s, *(time_s for time_s, _ in heard.chunks)]))
        verdict = heard.error or ("differs" if index in failed else "the same text")
        say(f"token {index}: {verdict}, waited {waits_s[-1]:.2f} s")
        await disarmed(spoken, injector, before)
    return {
        "kills": len(waits_s),
        "failed": len(failed),
        "failed_at": failed,
        "lost_characters": total.lost,
        "duplicated_characters": total.duplicated,
        "changed_characters": total.changed,
        "recovery_p50_s": rounded(percentile(waits_s, 0.5)),
        "recovery_p99_s": rounded(percentile(waits_s, 0.99)),
    }


async def disarmed(spoken: Remote, injector: Injector, before: Json) -> None:
    """Wait until the replica that died has been replaced, and take the other's trap away."""
    await spoken.do("disarm")
    await asyncio.sleep(1.0)  # for Ray to notice
    left = {one["name"] for one in (await spoken.do("look"))["replicas"]}
    gone = [one["name"] for one in before["replicas"] if one["name"] not in left]
    if len(gone) != 1:
        raise RuntimeError(f"{len(gone)} replicas have died, not one")
    await injector.whole(Fault("sweep", time.monotonic()), gone)


def longest_wait_s(times_s: Sequence[float]) -> float:
    """Between two that follow each other."""
    return max((after - before for before, after in pairwise(times_s)), default=0.0)
