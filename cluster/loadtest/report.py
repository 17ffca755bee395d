"""The report of a run, and whether it was good enough."""

import os
import time
from dataclasses import asdict
from typing import Any

from cluster.loadtest.figures import curve_ms, figures, percentiles
from cluster.loadtest.heard import Heard
from cluster.loadtest.run import Run
from cluster.loadtest.settings import Settings

Json = dict[str, Any]


def report(run: Run, settings: Settings) -> Json:
    """Everything there is to say, as JSON.

    Its `total` and each of its `groups` are `figures`; `ttft_curve_ms` has every second percentile of a group or, where
    there are none, of the total.
    """
    groups: dict[str, list[Heard]] = {}
    for heard in sorted(run.heard, key=lambda one: one.sent_s):
        if heard.group:
            groups.setdefault(heard.group, []).append(heard)
    return {
        "settings": asdict(settings),
        "client": {"cores": os.cpu_count(), "load_1_min": round(os.getloadavg()[0], 2), "ended": timestamp()},
        "late_ms": percentiles(run.late_ms),
        "total": figures(run.heard, settings),
        "groups": {name: figures(heard, settings) for name, heard in groups.items()},
        "ttft_curve_ms": {name: curve_ms(ttfts_ms(heard)) for name, heard in (groups or {"total": run.heard}).items()},
        "error_details": {heard.error: heard.detail for heard in run.heard if heard.error},
    }


def ttfts_ms(heard: list[Heard]) -> list[float]:
    """Of answers that came whole."""
    return [one.ttft_ms for one in heard if one.outcome == "answered"]


def problem(written: Json) -> str:
    """What was not good enough in a run that is reported so; empty where all was."""
    total, asked = written["total"], written["settings"]["min_goodput"]
    if not total["answered"]:
        return f"no request was answered: {total['errors']}"
    if asked is not None and total["goodput_share"] < asked:
        return f"goodput is {total['goodput_share']:.4f} of the requests; asked for was {asked:g}"
    return ""


def timestamp() -> str:
    """Now, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
