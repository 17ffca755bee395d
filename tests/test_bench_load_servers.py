"""Servers under load: their configurations say what their names say."""

from pathlib import Path

import pytest
import yaml

from bench.load_servers import POOLS, Servers
from cluster.config import parse_config
from workers.weights.model_dir import TINY_MODEL


@pytest.mark.parametrize("name", POOLS)
def test_a_cluster_is_what_its_name_says(name: str) -> None:
    config = parse_config(yaml.safe_load(Servers(TINY_MODEL).config(name).format(port=8123)))
    assert (config.http.port, config.engine.kv_cache_mib) == (8123, 12)
    assert config.engine.enable_prefix_caching == (name != "unified, no cache")
    assert set(config.pools.by_name) == ({"unified"} if name.startswith("unified") else {"prefill", "decode"})


def test_vllm_is_measured_where_it_is_named() -> None:
    assert "vLLM" not in Servers(TINY_MODEL).names
    assert Servers(TINY_MODEL, Path("python")).names[-1] == "vLLM"
