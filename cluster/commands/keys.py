"""`raydix keys`: makes API keys."""

import argparse
import hashlib
import secrets
import sys

KEY_BYTES = 32
KEY_PREFIX = "rdx-"  # so that scanners for leaked secrets can tell


def add_keys_options(parser: argparse.ArgumentParser) -> None:
    """The subcommands."""
    commands = parser.add_subparsers(required=True, metavar="command")
    new = commands.add_parser("new", help="a new key, and the line that it takes in the keys file")
    new.add_argument("--tenant", required=True, metavar="NAME", help="whose key it is to be")
    new.set_defaults(command=run_new)


def run_new(options: argparse.Namespace) -> None:
    """Print a key for its owner, which is shown this once, and what the keys file is to hold. Raises ConfigError."""
    key, line = new_key(options.tenant)
    print(f"the key, for {options.tenant} alone; it is shown this once:", file=sys.stderr)
    print(f"  {key}", file=sys.stderr)
    print("the line for the file that auth.keys_file names:", file=sys.stderr, flush=True)
    print(line)


def new_key(tenant: str) -> tuple[str, str]:
    """A key, and its line in the keys file. Raises ConfigError for a name that no tenant can have."""
    from cluster.access.tenants import make_entry

    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    entry = make_entry(tenant, hashlib.sha256(key.encode()).hexdigest())
    return key, f'- {{tenant: "{entry.tenant}", keys: ["{entry.keys[0]}"]}}'
