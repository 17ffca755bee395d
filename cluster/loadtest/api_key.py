"""The key of the API: from the environment: command lines are seen by others, and settings are reported."""

import os

from cluster.loadtest.settings import SettingsError

VARIABLE = "RAYDIX_API_KEY"


def api_key() -> str | None:
    """What RAYDIX_API_KEY holds; None where it is empty or not set. Raises SettingsError where that can be no key."""
    key = os.environ.get(VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{VARIABLE} holds characters that no key has; it is sent in a header, as it is")
    return key or None
