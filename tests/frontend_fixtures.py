"""A front door over fake pools, and a client of it: the fixtures of its tests, a plugin of pytest."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from tests.fake_pools import LIMIT, SETTINGS, FakePools
from tests.fake_sink import FakeSink
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import TINY_MODEL


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY_MODEL)


@pytest.fixture
def pools(tokenizer: Tokenizer) -> FakePools:
    return FakePools(tokenizer, "def naïve(): 🙂 STOP return 1")


@pytest.fixture
def admission() -> Admission:
    return Admission(LIMIT)


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def api(tokenizer: Tokenizer, pools: FakePools, admission: Admission, sink: FakeSink) -> FastAPI:
    return build_api(Frontend(SETTINGS, tokenizer, pools, sink), admission)


@pytest.fixture
def client(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client
