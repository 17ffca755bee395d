"""The gRPC API of a front door over fake pools: the fixtures of its tests, a plugin of pytest."""

import asyncio

import pytest

from cluster.access.metering import Accounts
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from cluster.rpc.gate import Gate
from tests.fake_pools import SETTINGS, FakePools
from tests.fake_sink import FakeSink
from tests.rpc_client import TENANTS, Run, served
from workers.tokenizer import Tokenizer


@pytest.fixture
def run(tokenizer: Tokenizer, pools: FakePools, admission: Admission, sink: FakeSink) -> Run:
    """Runs something with a client of a server without keys."""
    frontend = Frontend(SETTINGS, tokenizer, pools, sink)
    return lambda use: asyncio.run(served(frontend, Gate(admission, Accounts(), None), use))


@pytest.fixture
def run_with_keys(tokenizer: Tokenizer, pools: FakePools, admission: Admission, sink: FakeSink) -> Run:
    """The same with a server that asks for keys."""
    frontend = Frontend(SETTINGS, tokenizer, pools, sink)
    return lambda use: asyncio.run(served(frontend, Gate(admission, Accounts(), TENANTS.owner_of), use))
