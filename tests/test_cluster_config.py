"""cluster/config.py: what a configuration file may say, and what is said of one that is wrong."""

from pathlib import Path

import pytest
import yaml

from cluster.config import ConfigError, load_config, parse_config
from workers.weights.model_dir import TINY_MODEL

ANYBODY = {"allow_anonymous": True}


def test_nothing_given_serves_the_bundled_model_on_loopback() -> None:
    config = parse_config({})
    assert config.model == str(TINY_MODEL)
    assert config.model_name == "tiny"
    assert (config.http.host, config.http.port) == ("127.0.0.1", 8000)


def test_the_documentation_has_all_keys_with_their_defaults() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "configuration.md").read_text("utf-8")
    documented = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    defaults = parse_config({}).model_dump()
    documented["pools"]["decode"] = documented["pools"]["prefill"] | documented["pools"]["decode"]  # "the same keys"
    assert documented | {"model": defaults["model"]} == defaults


def test_the_documented_example_of_autoscaling_can_be_used() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "configuration.md").read_text("utf-8")
    pools = parse_config(yaml.safe_load(text.partition("## Autoscaling\n\n```yaml\n")[2].partition("```")[0])).pools
    assert pools.prefill.autoscaling is not None
    assert pools.decode.autoscaling is not None
    assert pools.prefill.autoscaling.targets == {"queued_tokens": 8192.0}
    assert pools.decode.autoscaling.targets == {"kv_usage": 0.8}


def test_a_file_overrides_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(
        "model: org/some-model\npools: {decode: {replicas: 3, num_gpus: 0.5}}\nengine: {kv_cache_mib: 64}\n"
    )
    config = load_config(path)
    assert config.model_name == "some-model"
    assert (config.pools.decode.replicas, config.pools.decode.num_gpus, config.pools.prefill.replicas) == (3, 0.5, 1)
    assert config.engine.engine_config().cache.memory_bytes == 64 * 2**20


def test_what_depends_on_the_cluster_is_left_open() -> None:
    config = parse_config({})
    assert (config.pools.decode.num_gpus, config.engine.gpu_memory_utilization) == (None, None)
    cache = config.engine.engine_config().cache
    assert (cache.memory_bytes, cache.gpu_memory_utilization) == (None, 0.9)


def test_whole_gpus_and_parts_of_one_can_be_asked_for() -> None:
    for num_gpus in (0.0, 0.5, 1, 2.0):
        assert parse_config({"pools": {"decode": {"num_gpus": num_gpus}}}).pools.decode.num_gpus == num_gpus


def test_a_model_given_as_a_directory_of_no_name_is_called_by_its_own() -> None:
    assert parse_config({"model": "."}).model_name == Path.cwd().name
    assert parse_config({"model": "models/tiny/"}).model_name == "tiny"


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("# nothing yet\n")
    assert load_config(path) == parse_config({})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"modle": "x"}, "modle: no such key"),
        ({"pools": {"decode": {"replica": 2}}}, "pools.decode.replica: no such key"),
        ({"http": {"port": 70000}}, "http.port: Input should be less than or equal to 65535, not 70000"),
        ({"http": {"port": "8000"}}, "http.port"),
        ({"engine": {"dtype": "fp8"}}, "engine.dtype"),
        ({"engine": {"max_num_seqs": 64, "max_num_batched_tokens": 8}}, "max_num_seqs 64"),
        ({"pools": {"prefill": {"replicas": 0}}}, "pools.prefill.replicas"),
        ({"pools": {"prefill": {"num_gpus": -0.5}}}, "pools.prefill.num_gpus: .* greater than or equal to 0, not -0.5"),
        ({"pools": {"decode": {"num_gpus": 1.5}}}, "pools.decode.num_gpus: .* must be a whole number, not 1.5"),
        ({"pools": {"decode": {"num_gpus": float("inf")}}}, "pools.decode.num_gpus: .* finite number"),
        ({"engine": {"device": "cuda:1"}}, "engine.device: .* 'cuda', not 'cuda:1'"),
        ({"engine": {"gpu_memory_utilization": 1.5}}, "engine: gpu_memory_utilization is 1.5; it must be"),
        (
            {"engine": {"device": "cpu"}, "pools": {"decode": {"num_gpus": 1.0}}},
            "^pools.decode.num_gpus is 1, but engine.device is cpu",
        ),
        (
            {"engine": {"device": "cuda"}, "pools": {"prefill": {"num_gpus": 0.0}}},
            "^pools.prefill.num_gpus is 0, but engine.device is cuda",
        ),
        ({"pools": {"decode": {"policy": "random"}}}, "pools.decode.policy.*'round_robin'"),
        ({"admin": {"port": "8001"}}, "admin.port"),
        ({"admin": {"port": 8001}}, "admin: .*port and keys_file go together"),
        ({"admin": {"keys_file": "keys.yaml"}}, "admin: .*port and keys_file go together"),
        ({"tracing": {"endpoint": "collector:4317"}}, "tracing.endpoint: .* such as http://host:4318, not 'collector"),
        ({"tracing": {"endpoint": "http://collector:4318/v1/traces"}}, "tracing.endpoint: .* without a path"),
        ({"tracing": {"sampling_ratio": 1.5}}, "tracing.sampling_ratio: .* less than or equal to 1"),
        ({"logs": {"encoding": "JSON"}}, "logs.encoding: .* 'text' or 'json'"),
    ],
)
def test_a_wrong_key_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config(values)


def test_all_wrong_keys_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)http\.prot.*colour"):
        parse_config({"colour": 1, "http": {"prot": 1}})


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\x00"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_haproxy_listens_where_it_reaches_the_ingress_and_serve_anywhere() -> None:
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        assert parse_config({"http": {"host": host}, "auth": ANYBODY}).http.proxy == "haproxy"
    for host in ("10.1.2.3", "::1", "::"):
        with pytest.raises(ConfigError, match=r"http\.host is .* set http\.proxy to serve"):
            parse_config({"http": {"host": host}})
        assert parse_config({"http": {"host": host, "proxy": "serve"}, "auth": ANYBODY}).http.host == host


def test_grpc_listens_where_http_does_unless_it_is_told_otherwise() -> None:
    assert parse_config({}).grpc_address is None
    assert parse_config({"grpc": {"port": 9000}}).grpc_address == ("127.0.0.1", 9000)
    with pytest.raises(ConfigError, match=r"grpc\.host is '0\.0\.0\.0'.*auth\.keys_file"):
        parse_config({"grpc": {"port": 9000, "host": "0.0.0.0"}})
    with pytest.raises(ConfigError, match=r"http\.port and grpc\.port are both 8000"):
        parse_config({"grpc": {"port": 8000}})
