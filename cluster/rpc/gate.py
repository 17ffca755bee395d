"""Lets calls for generation in: what three middlewares do for HTTP, in the same order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.access import metering
from cluster.access.auth import bearer_key
from cluster.access.auth import refusal as unknown_key
from cluster.access.tenants import Limits, TenantEntry
from cluster.door.admission import Admission, refusal
from cluster.door.caller import SESSION_HEADER, Caller
from cluster.telemetry.exchange import Exchange

OwnerOf = Callable[[bytes], TenantEntry | None]
Headers = list[tuple[bytes, bytes]]


class Gate:
    """Knows callers by their keys, keeps tenants to their limits and the front door to its slots.

    Args:
        admission: the slots.
        accounts: of the tenants.
        owner_of: whose key a key is; None where none is asked for.
    """

    def __init__(self, admission: Admission, accounts: metering.Accounts, owner_of: OwnerOf | None) -> None:
        self._admission = admission
        self._accounts = accounts
        self._owner_of = owner_of

    def tenant(self, headers: Headers) -> TenantEntry | None:
        """Who asks; None where no keys are asked for. Raises ApiError without the key of a tenant."""
        owner = self.owner(headers)
        if owner is None and self._owner_of is not None:
            raise unknown_key(bearer_key(headers))
        return owner

    def owner(self, headers: Headers) -> TenantEntry | None:
        """Whose key there is; None where there is none that is known."""
        key = bearer_key(headers)
        return None if key is None or self._owner_of is None else self._owner_of(key)

    @contextmanager
    def entered(self, headers: Headers, exchange: Exchange) -> Iterator[Caller]:
        """A request in flight, for as long as the context lasts. Raises ApiError where it is one too many."""
        tenant = self.tenant(headers)
        name, limits = (metering.ANYBODY, Limits()) if tenant is None else (tenant.tenant, tenant)
        visit = self._accounts.of(name).enter(limits)
        try:
            if not self._admission.enter():
                raise refusal(self._admission.retry_after_s())
            try:
                yield Caller(exchange.headers.get(SESSION_HEADER), "" if tenant is None else name, visit, exchange)
            finally:
                self._admission.leave()
        finally:
            visit.end()


def headers_of(metadata: Any) -> Headers:
    """Metadata as HTTP has it."""
    pairs = ((name, value.encode() if isinstance(value, str) else value) for name, value in metadata or ())
    return [(name.encode(), value) for name, value in pairs]
