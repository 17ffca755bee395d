"""The gRPC API of the real application on real Ray, beside the HTTP API."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cluster.haproxy import free_ports
from cluster.rpc import raydix_v1_pb2 as pb
from cluster.rpc.service import SERVICE
from tests.server import Server, served

pytestmark = pytest.mark.ray
DOCS = Path(__file__).resolve().parents[1] / "docs" / "grpc.md"
LISTEN, LOOPBACK = "0A", {"0100007F", "0000000000000000FFFF00000100007F"}  # in /proc; an IPv4 address may be mapped
# Few places in the worker, so that requests which are not aborted hold up every other; and two front
# doors on one port.
CONFIG = """
pools: {{{{unified: {{{{replicas: 1}}}}}}}}
engine: {{{{max_num_seqs: 4}}}}
ingress: {{{{replicas: 2}}}}
http: {{{{port: {{port}}}}}}
grpc: {{{{port: {grpc_port}}}}}
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def server(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("r"), CONFIG.format(grpc_port=port)) as server:
        yield server


@pytest.fixture
def channel(server: Server, port: int) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def generate(channel: Any, **fields: Any) -> Any:
    call = channel.unary_stream(
        f"/{SERVICE}/Generate", pb.GenerateRequest.SerializeToString, pb.GenerateResponse.FromString
    )
    return call(pb.GenerateRequest(model="tiny", **fields), timeout=60)


def test_the_stream_is_the_text_of_the_http_api(server: Server, channel: Any) -> None:
    fields: dict[str, Any] = {"max_tokens": 40, "temperature": 0.7, "seed": 5}
    *pieces, last = generate(channel, text="def main", **fields)
    answer = server.client.completions.create(model="tiny", prompt="def main", **fields)
    assert "".join(piece.text for piece in pieces) == answer.choices[0].text
    assert len(pieces) > 10
    assert answer.usage is not None
    assert last.usage.completion_tokens == answer.usage.completion_tokens
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens


def test_a_bad_request_names_its_field(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(generate(channel, text="x", temperature=5.0))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata())["raydix-param"] == "temperature"


def test_a_client_that_cancels_frees_the_worker(channel: Any) -> None:
    """Were their requests to go on, 12 that were cancelled would keep the worker's 4 places for a minute or more."""
    for count in range(12):
        call = generate(channel, text=f"# {count}\n", max_tokens=2000, ignore_eos=True)
        next(call)
        call.cancel()
    start_s = time.monotonic()
    assert "".join(piece.text for piece in generate(channel, text="import sys\n", max_tokens=4))
    assert time.monotonic() - start_s < 20


def test_the_example_of_the_docs_runs(server: Server, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (part.split("```")[0] for part in DOCS.read_text("utf-8").split("```python\n")[1:])
    assert "127.0.0.1:9000" in example
    exec(compile(example.replace(":9000", f":{port}"), str(DOCS), "exec"), {})
    assert "completion_tokens" in capsys.readouterr().out


def test_reflection_lists_and_describes_the_service(channel: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    described = DescriptorPool(database).FindServiceByName(SERVICE)
    assert [method.name for method in described.methods] == ["Generate", "Tokenize", "Health"]


def test_both_front_doors_listen_on_loopback_only(server: Server, port: int) -> None:
    tables = [Path(f"/proc/{server.process.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table]
    hosts = [at[1].partition(":")[0] for at in sockets if at[1].endswith(f":{port:04X}") and at[3] == LISTEN]
    assert len(hosts) == 2
    assert set(hosts) <= LOOPBACK
