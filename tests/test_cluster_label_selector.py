"""pools.*.label_selector and ingress.label_selector: which Ray nodes replicas may run on."""

from typing import Any

import pytest

from cluster.app import build_app_from_args
from cluster.config import ConfigError, parse_config

ON_POOLS: dict[str, Any] = {
    "pools": {"prefill": {"label_selector": {"pool": "prefill"}}},
    "ingress": {"label_selector": {"pool": "in(prefill, decode)"}},
}


def actor_options(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each deployment asks of Ray, by name."""
    ingress = build_app_from_args({"auth": {"allow_anonymous": True}} | values)._bound_deployment
    pools = {name: pool._bound_deployment.ray_actor_options for name, pool in ingress.init_args[1].items()}
    return {"ingress": ingress.ray_actor_options} | pools


def test_replicas_are_kept_to_the_nodes_that_the_file_names() -> None:
    options = actor_options(ON_POOLS)
    assert options["prefill"]["label_selector"] == {"pool": "prefill"}
    assert options["ingress"]["label_selector"] == {"pool": "in(prefill, decode)"}


def test_without_a_selector_any_node_will_do() -> None:
    assert not any("label_selector" in options for options in actor_options({}).values())


@pytest.mark.parametrize("selector", ["prefill", {"pool": 1}, ["pool"]])
def test_a_selector_is_a_mapping_of_texts(selector: object) -> None:
    with pytest.raises(ConfigError, match=r"pools\.decode\.label_selector"):
        parse_config({"pools": {"decode": {"label_selector": selector}}})
