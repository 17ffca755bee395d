"""The keys file: who may ask, how each of them shows who it is, and how much it may ask for."""

import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from cluster.section import ConfigError, Count, Section

TenantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
KeyDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Limits(Section):
    """What a tenant may take of one front door; None for no limit.

    Attributes:
        requests_per_minute: that it begins, in bursts of as many.
        tokens_per_minute: of prompts and completions.
        concurrent_requests: in flight.
    """

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None


class TenantEntry(Limits):
    """One tenant of the file.

    Attributes:
        keys: SHA-256 of each of its keys, in hexadecimal. A key is 256 random bits, so a plain hash is enough.
    """

    tenant: TenantName
    keys: Annotated[list[KeyDigest], Field(min_length=1)]


@dataclass(frozen=True)
class Tenants:
    """All of a file."""

    entries: Sequence[TenantEntry]

    def owner_of(self, key: bytes) -> TenantEntry | None:
        """Whose key it is. Every digest is compared, and each in constant time, so how long it takes tells nothing."""
        digest, owner = hashlib.sha256(key).digest(), None
        for known, entry in self._digests:
            if hmac.compare_digest(digest, known):
                owner = entry
        return owner

    @cached_property
    def _digests(self) -> list[tuple[bytes, TenantEntry]]:
        return [(bytes.fromhex(known), entry) for entry in self.entries for known in entry.keys]


ENTRIES = TypeAdapter(list[TenantEntry])


def read_tenants(path: Path) -> Tenants:
    """Read a keys file; `[]` lets nobody in. Raises ConfigError that names what is wrong with it, never a digest."""
    try:
        entries = ENTRIES.validate_python(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the keys file {path} cannot be read: {error}") from error
    except ValidationError as error:
        told = "\n".join(f"  {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"the keys file {path} must be a list of tenants:\n{told}") from error
    check_distinct(path, "the tenant {} stands twice; put its keys into one entry", [one.tenant for one in entries])
    check_distinct(path, "a key stands twice, {:.8}...", [key for one in entries for key in one.keys])
    return Tenants(entries)


def make_entry(tenant: str, digest: str) -> TenantEntry:
    """A tenant with one key and no limits. Raises ConfigError for a name that no tenant can have."""
    try:
        return TenantEntry(tenant=tenant, keys=[digest])
    except ValidationError as error:
        message = f"{tenant!r} is no name for a tenant: take 1 to 64 letters, digits, dots, dashes and underscores"
        raise ConfigError(message) from error


def check_distinct(path: Path, message: str, names: Sequence[str]) -> None:
    """Raise ConfigError where one of the names comes twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ConfigError(f"the keys file {path}: {message.format(name)}")
