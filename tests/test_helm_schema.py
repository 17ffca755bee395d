"""helm/raydix/values.schema.json: wrong values are refused, by name, before anything is rendered."""

import json
from typing import Any

import helm_python as helm
import pytest
import yaml

from tests.helm_chart import CHART, application_args, rendered
from tests.helm_config_schema import SCHEMA, config_definitions

WRONG: dict[str, dict[str, Any]] = {
    "poolz": {"poolz": {}},
    "prefil": {"config": {"pools": {"prefil": {}}}},
    "pools.decode.replicas": {"config": {"pools": {"decode": {"replicas": 0}}}},
    "engine.numerics": {"config": {"engine": {"numerics": "exact"}}},
    "max_replicas": {"config": {"pools": {"decode": {"autoscaling": {"min_replicas": 2}}}}},
    "groups.prefill.cpus": {"groups": {"prefill": {"cpus": "2"}}},
    "groups.prefill.memory": {"groups": {"prefill": {"memory": "lots"}}},
    "groups.decode": {"groups": {"decode": {"gpu": 1}}},
    "gcsFaultTolerance.backend": {"ray": {"gcsFaultTolerance": {"backend": "etcd"}}},
    "gatewayClassName": {"ray": {"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}}},
    "ray.auth": {"ray": {"auth": {"enabled": False}}},
    "capabilities.gateway": {"capabilities": {"gateway": True}},
    "loadTest.profile": {"loadTest": {"profile": "trace"}},  # its file is not in the image
    "modelCache.mountPath": {"modelCache": {"mountPath": "models"}},
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_value_is_refused_by_name(word: str) -> None:
    with pytest.raises(helm.HelmError) as refusal:
        rendered(WRONG[word])
    message = str(refusal.value).replace("/", ".")
    assert word in message, message


FAILING: list[tuple[dict[str, Any], str]] = [
    (
        {"config": {"pools": {"decode": {"num_cpus": 3}}}},
        "config.pools.decode.num_cpus is 3, more than groups.decode.cpus, which is 2",
    ),
    (
        {"config": {"pools": {"decode": {"replicas": 2, "autoscaling": {"max_replicas": 2}}}}},
        "config.pools.decode: autoscaling decides on the number of replicas",
    ),
    ({"config": {"pools": {"prefill": {"num_gpus": 0.5}}}}, "num_gpus is 0.5, more than groups.prefill.gpus"),
    ({"modelCache": {"enabled": True, "download": {"enabled": True}}}, "modelCache.download needs"),
    ({"ray": {"gcsFaultTolerance": {"backend": "redis"}}}, "redis.address is needed"),
    ({"config": {"http": {"port": 8080}}}, "config.http.port is 8080, where Ray or HAProxy listens"),
    (
        {"api": {"keysSecret": "keys"}, "config": {"auth": {"allow_anonymous": True}}},
        "api.keysSecret fills config.auth",
    ),
    ({"api": {"keysSecret": "keys"}, "loadTest": {"enabled": True}}, "name api.clientKeySecret"),
    ({"ingress": {"enabled": True}}, "ingress.hosts must name"),
    ({"httpRoute": {"enabled": True}, "capabilities": {"gateway": "yes"}}, "httpRoute.parentRefs must name"),
]


@pytest.mark.parametrize(("values", "words"), FAILING)
def test_values_that_cannot_be_served_are_refused_with_the_reason(values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmError, match=words):
        rendered(values)


def test_the_schema_of_config_is_the_one_of_our_parser() -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    assert schema["$defs"] == config_definitions(), "run python -m tests.helm_config_schema"
    assert schema["properties"]["config"] == {"$ref": "#/$defs/ClusterConfig"}


def open_objects(node: Any, path: str = "") -> list[str]:
    """Where a schema names properties and takes others too."""
    if isinstance(node, list):
        return [found for item in node for found in open_objects(item, path)]
    if not isinstance(node, dict):
        return []
    here = (
        [path] if "properties" in node and node.get("type") == "object" and "additionalProperties" not in node else []
    )
    return here + [found for key, value in node.items() for found in open_objects(value, f"{path}/{key}")]


def test_no_section_takes_unknown_keys() -> None:
    assert open_objects(json.loads(SCHEMA.read_text("utf-8"))) == []


def test_every_default_value_is_in_the_schema_and_the_other_way_round() -> None:
    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        assert values.keys() == schema["properties"].keys() - {"global"}, path
        for key, value in values.items():
            if isinstance(value, dict) and "properties" in schema["properties"][key]:
                compare(value, schema["properties"][key], f"{path}.{key}")

    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    compare(defaults, json.loads(SCHEMA.read_text("utf-8")), "")


def test_what_a_user_says_stays_zeros_too() -> None:
    values = {
        "config": {"pools": {"decode": {"num_gpus": 0, "num_cpus": 0, "label_selector": {"zone": "a"}}}},
        "groups": {"decode": {"gpus": 1}},
    }
    decode = application_args(values)["pools"]["decode"]
    assert decode == {"num_gpus": 0, "num_cpus": 0, "label_selector": {"zone": "a"}}


def test_every_value_is_in_the_readme() -> None:
    readme = (CHART / "README.md").read_text("utf-8")
    for section, value in yaml.safe_load((CHART / "values.yaml").read_text("utf-8")).items():
        for name in [section] if not isinstance(value, dict) or not value else [f"{section}.{key}" for key in value]:
            assert f"`{name}" in readme, name
