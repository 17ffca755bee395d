"""Keeps each tenant to its limits, around the app."""

from collections import defaultdict

from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.access.account import Account, Visit
from cluster.access.auth import tenant_of
from cluster.access.tenants import Limits
from cluster.api.errors import ApiError
from cluster.door.admission import is_generation
from cluster.telemetry.metric_names import TENANT_REFUSED_REQUESTS, TENANT_TOKENS
from cluster.telemetry.metric_sink import Totals

VISIT = "raydix.visit"
ANYBODY = "anybody"  # as tenant in metrics, where no keys are asked for


class Accounts:
    """The tenants' accounts at one front door."""

    def __init__(self) -> None:
        self._by_tenant = defaultdict(Account, {ANYBODY: Account()})  # counters are there before anybody asks

    def of(self, tenant: str) -> Account:
        """A tenant's; a new one for a tenant that has not asked before."""
        return self._by_tenant[tenant]

    def tell(self, totals: Totals) -> None:
        """Count what they have used, for metrics. There are no more labels than tenants in the keys file."""
        for tenant, account in self._by_tenant.items():
            totals.tell(TENANT_TOKENS, account.num_tokens, tenant)
            totals.tell(TENANT_REFUSED_REQUESTS, account.num_refused, tenant)


class MeteringMiddleware:
    """Counts requests for generation, and refuses those that are more than their tenant may have, with HTTP 429.

    It stands behind `AuthMiddleware`, which knows the tenant. What is charged in tokens is known later, where the
    prompt has been tokenised: by then the app has the `Visit`.
    """

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self._app = app
        self._accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server with each request."""
        if not is_generation(scope):
            await self._app(scope, receive, send)
            return
        tenant = tenant_of(scope)
        name, limits = (ANYBODY, Limits()) if tenant is None else (tenant.tenant, tenant)
        try:
            visit = self._accounts.of(name).enter(limits)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        try:
            await self._app({**scope, VISIT: visit}, receive, send)
        finally:
            visit.end()


def visit_of(scope: Scope) -> Visit | None:
    """What a request's tokens are charged to; None where it asks for none."""
    visit = scope.get(VISIT)
    return visit if isinstance(visit, Visit) else None
