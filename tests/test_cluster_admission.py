"""admission.py: slots against a counter, none lost whichever way a request ends, and when to come again."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from starlette.types import Message, Receive, Scope, Send

from cluster.api.errors import ApiError
from cluster.api.event_stream import EventStreamResponse
from cluster.door.admission import MAX_RETRY_AFTER_S, MEMORY_S, Admission, AdmissionMiddleware, is_generation

POST: Scope = {"type": "http", "method": "POST", "path": "/v1/completions", "asgi": {"spec_version": "2.3"}}
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of comings and goings, against a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.admission = Admission(3, self.clock)
        self.num_in_flight = 0

    @rule()
    def come(self) -> None:
        admitted = self.admission.enter()
        assert admitted == (self.num_in_flight < 3)
        self.num_in_flight += admitted

    @precondition(lambda self: self.num_in_flight)
    @rule()
    def go(self) -> None:
        self.admission.leave()
        self.num_in_flight -= 1

    @rule(seconds=st.floats(0, 1e6))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def counts_and_tells_a_whole_number_of_seconds(self) -> None:
        assert self.admission.num_in_flight == self.num_in_flight
        retry_after_s = self.admission.retry_after_s()
        assert isinstance(retry_after_s, int)
        assert 1 <= retry_after_s <= MAX_RETRY_AFTER_S


TestAdmissionMachine = AdmissionMachine.TestCase


def overloaded(clock: Clock, num_refused: int) -> Admission:
    admission = Admission(1, clock)
    assert admission.enter()
    assert not any(admission.enter() for _ in range(num_refused))
    assert admission.num_refused == num_refused
    return admission


def test_the_faster_requests_end_the_sooner_a_client_may_come_again() -> None:
    clock = Clock()
    admission = overloaded(clock, num_refused=20)
    told = []
    for _ in range(6):
        told.append(admission.retry_after_s())
        admission.leave()
        assert admission.enter()
    assert told == sorted(told, reverse=True)
    assert told[0] == MAX_RETRY_AFTER_S, "one request ended lately, and 20 wait"
    assert told[-1] == pytest.approx(20 / (6 / MEMORY_S), abs=1)


def test_the_more_were_refused_the_later_a_client_is_told_to_come() -> None:
    clock = Clock()
    few, many = overloaded(clock, num_refused=2), overloaded(clock, num_refused=5)
    assert (few.retry_after_s(), many.retry_after_s()) == (2 * MEMORY_S, 5 * MEMORY_S)


def test_a_door_that_has_just_opened_has_clients_come_again_soon() -> None:
    """It has seen none of its many requests end, which does not mean that they take long."""
    admission = Admission(100, Clock())
    assert all(admission.enter() for _ in range(100))
    assert not any(admission.enter() for _ in range(6))
    assert admission.retry_after_s() == 1


def test_where_nothing_ends_any_more_a_client_is_told_the_most() -> None:
    clock = Clock()
    admission = overloaded(clock, num_refused=0)
    clock.now_s += 1000
    assert not admission.enter()
    assert admission.retry_after_s() == MAX_RETRY_AFTER_S


def test_what_was_long_ago_is_forgotten() -> None:
    clock = Clock()
    admission = overloaded(clock, num_refused=1000)
    clock.now_s += 20 * MEMORY_S
    admission.leave()
    assert admission.retry_after_s() == 1


@pytest.mark.parametrize(
    ("method", "path", "root", "counts"),
    [
        ("POST", "/v1/completions", "", True),
        ("POST", "/v1/chat/completions", "", True),
        ("POST", "/llm/v1/completions", "/llm", True),
        ("GET", "/v1/completions", "", False),
        ("GET", "/v1/models", "", False),
        ("POST", "/debug/route", "", False),
    ],
)
def test_only_requests_for_generation_count(method: str, path: str, root: str, counts: bool) -> None:
    assert is_generation({"type": "http", "method": method, "path": path, "root_path": root}) is counts
    assert not is_generation({"type": "lifespan"})


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


class Client:
    """What an app sends, and one that vanishes after so many messages."""

    def __init__(self, leaves_after: int | None = None) -> None:
        self.sent: list[Message] = []
        self._leaves_after = leaves_after

    async def send(self, message: Message) -> None:
        if len(self.sent) == self._leaves_after:
            raise OSError("the client has gone")
        self.sent.append(message)
        await asyncio.sleep(0)


class Source:
    """Where the text of an answer comes from."""

    def __init__(self, fails: bool = False) -> None:
        self.num_closed = 0
        self._fails = fails

    async def deltas(self) -> AsyncGenerator[str]:
        try:
            yield "first"
            await asyncio.sleep(0)
            if self._fails:
                raise RuntimeError
            yield "second"
        finally:
            self.num_closed += 1


def streaming(source: Source) -> App:
    """An app that, as the front door does, waits for the first text and then streams."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        deltas = source.deltas()
        await anext(deltas)
        await EventStreamResponse(forward(deltas), deltas)(scope, receive, send)

    async def forward(deltas: AsyncGenerator[str]) -> AsyncGenerator[str]:
        yield "first"
        async for text in deltas:
            yield text

    return app


async def call(app: App, client: Client, spec_version: str = "2.3") -> Admission:
    """One request through a door with a single slot."""
    admission = Admission(1)
    held = []

    async def looking(scope: Scope, receive: Receive, send: Send) -> None:
        async def look(message: Message) -> None:
            held.append(admission.num_in_flight)
            await send(message)

        await app(scope, receive, look)

    door = AdmissionMiddleware(looking, admission)
    with contextlib.suppress(Exception):
        await door({**POST, "asgi": {"spec_version": spec_version}}, never, client.send)
    assert set(held) <= {1}, "the slot is held until the last byte"
    return admission


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("leaves_after", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("fails", [False, True])
def test_a_stream_gives_its_slot_back_and_closes_its_source(
    spec_version: str, leaves_after: int | None, fails: bool
) -> None:
    source, client = Source(fails), Client(leaves_after)
    admission = asyncio.run(call(streaming(source), client, spec_version))
    assert (admission.num_in_flight, source.num_closed) == (0, 1)
    assert leaves_after is None or len(client.sent) <= leaves_after


def test_an_error_before_the_first_text_gives_the_slot_back() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ApiError(500, "no")

    assert asyncio.run(call(fails, Client())).num_in_flight == 0


@pytest.mark.parametrize("turns", range(12))
def test_a_request_cancelled_at_any_time_gives_its_slot_back_at_once(turns: int) -> None:
    """Serve cancels the app's task when the client disconnects, also before the response has been begun."""

    async def cancelled() -> None:
        source, admission, client = Source(), Admission(1), Client()
        door = AdmissionMiddleware(streaming(source), admission)
        task = asyncio.create_task(door(POST, never, client.send))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert admission.num_in_flight == 0
        assert source.num_closed == (1 if turns else 0), "the source must not be left to the garbage collector"

    asyncio.run(cancelled())


def test_beyond_the_limit_the_body_is_not_read_and_the_app_not_asked() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async def refused() -> None:
        admission, client = Admission(1, Clock()), Client()
        assert admission.enter()
        await AdmissionMiddleware(app, admission)(POST, never, client.send)
        start, body = client.sent
        assert start["status"] == 429
        assert dict(start["headers"])[b"retry-after"] == str(int(MEMORY_S)).encode()
        assert b'"code":"queue_full"' in body["body"]
        assert admission.num_in_flight == 1
        admission.leave()
        assert admission.enter(), "who was refused has taken nothing"

    asyncio.run(refused())
