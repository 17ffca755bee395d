"""A keys file that may change while it is in use."""

import logging
from pathlib import Path

from cluster.access.tenants import TenantEntry, read_tenants
from cluster.section import ConfigError

logger = logging.getLogger("ray.serve")

Stamp = tuple[int, int, int]  # a mounted Kubernetes Secret changes by another file in its place


class KeyFile:
    """Knows whose key a key is, as the file has it.

    Raises:
        ConfigError: the file cannot be used. Once it is in use that is logged, and what it held before stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = stamp_of(path)
        self._tenants = read_tenants(path)

    def owner_of(self, key: bytes) -> TenantEntry | None:
        """Whose key it is; None for a key that nobody has."""
        return self._tenants.owner_of(key)

    def refresh(self) -> None:
        """Read the file again if it has changed; to be called now and then."""
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tenants = read_tenants(self._path)
        except ConfigError as error:
            logger.error("%s; the keys that were read before stay in force", error)
        else:
            logger.warning("the keys file %s has been read again: %d tenants", self._path, len(self._tenants.entries))


def stamp_of(path: Path) -> Stamp | None:
    """What changes when a file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
