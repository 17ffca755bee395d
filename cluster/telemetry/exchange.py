"""One HTTP request and what came of it, as far as it is told afterwards: in the log and as spans. Never its text."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import Scope

from cluster.access.tenants import TenantEntry
from cluster.api.answers import Usage
from cluster.api.protocol import GenerationBody
from cluster.door.batch import Batch
from cluster.door.completion import Completion
from cluster.door.leg import Leg

CLIENT_LEFT = 499  # no status of HTTP; what Serve and others write where there was nobody left to send one to
REQUEST_ID = "x-request-id"
KEY = "raydix.exchange"  # in an ASGI scope


@dataclass
class Exchange:
    """Filled in as the request goes on.

    Attributes:
        path: without the query, which may hold a prompt, and quoted: it stays one word.
        request_id: the client's, or the one that Serve gave it; Serve sends it back with every answer.
        headers: of the request.
        began_s, ended_s: of a clock that does not jump.
        began_ns: the same moment, since the epoch.
        status: of the answer; 499 where the client left before there was one.
        tenant: whose key the request had; empty where it needed none, or had none that is known.
        answer_id: what the answer, the routers and the workers call it; empty where no worker was to be asked.
        body: what was asked, where it could be read.
        batch: its completions, where it was taken.
        error: the code of an error that came after it was taken.
    """

    method: str = ""
    path: str = ""
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)
    began_ns: int = field(default_factory=time.time_ns)
    ended_s: float = 0.0
    status: int = CLIENT_LEFT
    tenant: str = ""
    answer_id: str = ""
    body: GenerationBody | None = None
    batch: Batch | None = None
    error: str | None = None

    @classmethod
    def of(cls, scope: Scope) -> "Exchange":
        """The one that begins with this request."""
        headers = Headers(scope=scope)
        return cls(scope["method"], quote(scope["path"]), headers.get(REQUEST_ID, ""), headers)

    def end(self, owner: TenantEntry | None) -> None:
        """The last byte has been sent, or never will be."""
        self.ended_s = time.monotonic()
        self.tenant = owner.tenant if owner is not None else ""

    @property
    def duration_s(self) -> float:
        """From the request's arrival to the last byte of the answer."""
        return self.ended_s - self.began_s

    @property
    def completions(self) -> list[Completion]:
        """One for each choice; none where the request was not taken."""
        return [] if self.batch is None else self.batch.completions

    @property
    def endings(self) -> list[str]:
        """How each choice ended that was begun."""
        return [one.ending for one in self.completions if one.ending]

    def legs(self) -> Iterator[tuple[int, Leg]]:
        """All calls to workers, with the number of the choice."""
        for index, one in enumerate(self.completions):
            yield from ((index, leg) for leg in one.legs)

    def fields(self) -> dict[str, Any]:
        """For the log."""
        told: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "duration_ms": round(self.duration_s * 1e3, 3),
        }
        named = {"tenant": self.tenant, "answer_id": self.answer_id, "error": self.error}
        told |= {name: value for name, value in named.items() if value}
        return told if self.batch is None else told | self._of_workers(self.batch.usage(0))

    def _of_workers(self, used: Usage) -> dict[str, Any]:
        """What they were given and gave, and who had it, each once, in the order in which it went to them."""
        legs = [leg for _, leg in self.legs()]
        told: dict[str, Any] = {
            "prompt_tokens": used.num_prompt,
            "cached_tokens": used.num_cached,
            "completion_tokens": used.num_completion,
            "finish_reasons": self.endings,
        }
        if workers := list(dict.fromkeys(leg.worker for leg in legs if leg.worker)):
            told["workers"] = workers
        if num_lost := sum(leg.loss is not None for leg in legs):
            told["workers_lost"] = num_lost
        return told


def exchange_of(scope: Scope) -> Exchange:
    """The exchange of a request that came through `cluster.telemetry.access_log.AccessLog`."""
    found: Exchange = scope[KEY]
    return found
