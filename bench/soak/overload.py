"""Ten times as many requests as can be served, whether or not the ones before have been answered."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

from bench.faults.client import Heard, complete
from bench.faults.compare import percentile
from bench.faults.remote import Json
from bench.faults.report import rounded
from bench.faults.requests import Case

TOO_MANY = 429


async def overload(port: int, cases: Sequence[Case], peak: float, times: float, seconds: float) -> Json:
    """An open loop at a multiple of the peak rate. Goodput counts what was answered whole while it lasted."""
    rng, tasks = random.Random(0), list[asyncio.Task[Heard]]()
    begin_s = time.monotonic()
    while (now_s := time.monotonic()) < begin_s + seconds:
        due = int((now_s - begin_s) * peak * times) - len(tasks)
        tasks += [asyncio.create_task(complete(port, rng.choice(cases).body)) for _ in range(due)]
        await asyncio.sleep(0.01)
    offered = len(tasks) / (time.monotonic() - begin_s)
    return summary(await asyncio.gather(*tasks), begin_s + seconds, seconds, peak) | {
        "offered_per_s": round(offered, 1)
    }


def summary(heard: Sequence[Heard], end_s: float, seconds: float, peak: float) -> Json:
    """Of all answers: refusals, failures, goodput."""
    refused = [one for one in heard if one.status == TOO_MANY]
    whole = [one for one in heard if not one.error]
    failed = [one for one in heard if one.error and one.status != TOO_MANY]
    goodput = sum(one.end_s <= end_s for one in whole) / seconds
    waits_s = [one.end_s - one.sent_s for one in refused]
    return {
        "requests": len(heard),
        "answered": len(whole),
        "refused_429": len(refused),
        "without_retry_after": sum(one.retry_after is None for one in refused),
        "failed": len(failed),
        "reasons": dict(Counter(one.error for one in failed)),
        "refusal_p50_s": rounded(percentile(waits_s, 0.5)),
        "refusal_p99_s": rounded(percentile(waits_s, 0.99)),
        "goodput_per_s": round(goodput, 1),
        "goodput_of_peak": round(goodput / peak, 3),
    }
