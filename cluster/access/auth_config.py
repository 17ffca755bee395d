"""Who may ask, as the configuration has it."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from cluster.section import ConfigError, Port, Section

AbsolutePath = Annotated[str, AfterValidator(os.path.abspath)]  # replicas have other working directories


class AuthSection(Section):
    """API keys, or none.

    Attributes:
        keys_file: the tenants and the hashes of their keys (`cluster.access.tenants`); None for an API without keys.
        allow_anonymous: whoever reaches the address may ask, wherever it is. Only without a keys_file.
    """

    keys_file: AbsolutePath | None = None
    allow_anonymous: bool = False

    @property
    def keys_path(self) -> Path | None:
        """The same as a path."""
        return None if self.keys_file is None else Path(self.keys_file)


class AdminSection(Section):
    """What operators ask of a front door, on loopback, apart from the API.

    Attributes:
        port: of the first front door of a machine, the next ones have the next ports; None for none.
        keys_file: who may ask, as in `AuthSection`.
    """

    port: Port | None = None
    keys_file: AbsolutePath | None = None

    @model_validator(mode="after")
    def check_keys(self) -> Self:
        """Nobody asks without a key."""
        if (self.port is None) != (self.keys_file is None):
            raise ValueError("port and keys_file go together: give both, or neither")
        return self

    @property
    def keys_path(self) -> Path | None:
        """The same as a path."""
        return None if self.keys_file is None else Path(self.keys_file)


def check_who_may_ask(auth: AuthSection, host: str | None, key: str = "http.host") -> None:
    """Raise ConfigError where anybody could ask and nobody said so.

    Args:
        host: what the API listens on; None where that is not known here.
        key: what says so.
    """
    if auth.keys_file is not None and auth.allow_anonymous:
        raise ConfigError("auth.allow_anonymous and auth.keys_file exclude each other: drop one of them")
    if auth.keys_file is None and not auth.allow_anonymous and not is_loopback(host):
        where = "here the API is reached from elsewhere" if host is None else f"{key} is {host!r}"
        raise ConfigError(
            f"{where}, but an API without keys listens on loopback only: give auth.keys_file "
            "(`raydix keys new` makes keys), or say auth.allow_anonymous: true"
        )


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:  # a name, or nothing
        return False
