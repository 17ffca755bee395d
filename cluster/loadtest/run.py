"""A whole run: warm-up, then every conversation of a profile, closed or open loop."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from cluster.loadtest.arrivals import poisson_s
from cluster.loadtest.ask import Ask, Profile, Session
from cluster.loadtest.client import Client, only_model
from cluster.loadtest.heard import Heard
from cluster.loadtest.profiles.by_name import profile_of
from cluster.loadtest.profiles.unique import unique_ask
from cluster.loadtest.settings import Settings

PROGRESS_PERIOD_S = 2.0
AskServer = Callable[[Ask], Awaitable[Heard]]


@dataclass
class Run:
    """What came of a run.

    Attributes:
        heard: in the order in which requests ended.
        late_ms: how much later than planned each conversation of an open loop was begun; where that is much, the client
            is what was measured.
    """

    heard: list[Heard] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)


async def run(settings: Settings, key: str | None = None) -> Run:
    """Warm up, then run the profile, with a key where the API wants one. Raises NoServer or SettingsError."""
    model = settings.model or await only_model(settings.url, settings.timeout_s, key)
    client = Client(settings.url, model, settings.endpoint, settings.timeout_s, key)
    for number in range(settings.warm_up):
        await client.ask(unique_ask(settings, f"warm up {number}"))
    done = Run()
    watching = asyncio.create_task(report_progress(settings, done))
    try:
        await drive(settings, profile_of(settings), client.ask, done)
    finally:
        watching.cancel()
    return done


async def drive(settings: Settings, profile: Profile, ask: AskServer, done: Run) -> None:
    """Hold every conversation, in the profile's own time or as the settings have it."""
    starts_s = planned_starts_s(settings, profile)
    if starts_s is None:
        await closed_loop(profile.sessions(), settings.concurrency, ask, done)
    else:
        await open_loop(profile.sessions(), starts_s, ask, done)


def planned_starts_s(settings: Settings, profile: Profile) -> Iterator[float] | None:
    """When each conversation begins: at its profile's times or at --rate; None where each waits for another's end."""
    starts_s = profile.starts_s()
    if starts_s is None and settings.rate is not None:
        return poisson_s((settings.rate for _ in range(settings.requests)), settings.seed)
    return starts_s


async def closed_loop(sessions: Iterator[Session], concurrency: int, ask: AskServer, done: Run) -> None:
    """So many clients, each with one conversation after the other."""

    async def client() -> None:
        for session in sessions:
            await converse(session, ask, done)

    await asyncio.gather(*(client() for _ in range(concurrency)))


async def open_loop(sessions: Iterator[Session], starts_s: Iterator[float], ask: AskServer, done: Run) -> None:
    """Each conversation in its time, whatever has become of those before it."""
    begin_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for session, start_s in zip(sessions, starts_s, strict=False):
            await asyncio.sleep(begin_s + start_s - time.monotonic())
            done.late_ms.append(1000 * (time.monotonic() - begin_s - start_s))
            group.create_task(converse(session, ask, done))


async def converse(session: Session, ask: AskServer, done: Run) -> None:
    """Turn after turn; a conversation ends early where a turn fails."""
    try:
        turn = next(session)
        while True:
            heard = await ask(turn)
            done.heard.append(heard)
            if heard.error:
                session.close()
                return
            turn = session.send(heard.text)
    except StopIteration:
        return


async def report_progress(settings: Settings, done: Run) -> None:
    """A line on standard error every now and then."""
    begin_s = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_PERIOD_S)
        ended, failed = len(done.heard), sum(bool(heard.error) for heard in done.heard)
        passed_s = time.monotonic() - begin_s
        line = f"[{passed_s:5.0f} s] {ended} of {settings.requests} requests, {failed} failed, {ended / passed_s:.1f}/s"
        print(line, file=sys.stderr, flush=True)
