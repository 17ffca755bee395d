"""Who asks, as far as that stands outside the body."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastapi import Request

from cluster.access.account import Visit
from cluster.access.auth import tenant_of
from cluster.access.metering import visit_of
from cluster.telemetry.exchange import Exchange, exchange_of
from workers.request import GenerationRequest

SESSION_HEADER = "x-session-id"


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes:
        session: what it calls its conversation.
        tenant: whose key it has; "" where no keys are asked for.
        visit: what its tokens are charged to; None where nothing is generated.
        exchange: what is to be told of the request afterwards.
    """

    session: str | None = None
    tenant: str = ""
    visit: Visit | None = None
    exchange: Exchange = field(default_factory=Exchange)

    def cache_salt(self, own: str | None) -> str:
        """Names those who may share its KV: its tenant, or fewer where it gives a salt of its own.

        No tenant's name has a slash. The workers hash it under the cluster's secret (`radix.block_hash.root_hash`), so
        to know a tenant's name is not to know its hashes.
        """
        return f"{self.tenant}/{own or ''}" if self.tenant or own else ""

    def charge(self, requests: Sequence[GenerationRequest], num_drawn: int, used: Callable[[], int]) -> None:
        """Charge the tenant with all that the requests may come to. Raises ApiError where that is too much for it.

        Args:
            num_drawn: completions of each request.
            used: tells what they have come to, once they have ended.
        """
        if self.visit is not None:
            most = sum(len(one.prompt_token_ids) + num_drawn * one.sampling.max_tokens for one in requests)
            self.visit.charge(most, used)


ANYBODY = Caller()


def caller_of(request: Request) -> Caller:
    """Who has sent an HTTP request."""
    tenant = tenant_of(request.scope)
    name = "" if tenant is None else tenant.tenant
    session = request.headers.get(SESSION_HEADER)
    return Caller(session, name, visit_of(request.scope), exchange_of(request.scope))
