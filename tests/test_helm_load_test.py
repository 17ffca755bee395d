"""The RayJob of the chart: a load test that knows where the service is."""

import json
import shlex
from typing import Any, get_args

from cluster.loadtest.__main__ import make_parser
from cluster.loadtest.settings import ProfileName, Settings, settings_of
from tests.helm_chart import of_kind, rendered, the, value_set
from tests.helm_config_schema import SCHEMA


def client_of(values: dict[str, Any]) -> Settings:
    """What the client makes of the job's command, by its own parser."""
    words = shlex.split(the("RayJob", values)["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "cluster.loadtest"]
    return settings_of(make_parser().parse_args(words[3:]))


def test_it_asks_the_releases_service() -> None:
    values = {"loadTest": {"enabled": True, "args": ["--requests", "400"]}, "config": {"http": {"port": 9000}}}
    settings = client_of(values)
    assert settings.url == "http://demo-raydix-serve-svc:9000"
    assert (settings.profile, settings.requests) == ("shared-prefix", 400)


def test_the_value_set_that_has_one_is_understood() -> None:
    settings = client_of(value_set("pools"))
    assert (settings.profile, settings.requests, settings.concurrency) == ("multi-turn", 400, 16)


def test_every_profile_that_the_schema_lets_through_is_one_of_the_clients() -> None:
    allowed = json.loads(SCHEMA.read_text("utf-8"))["properties"]["loadTest"]["properties"]["profile"]["enum"]
    assert set(allowed) == set(get_args(ProfileName)) - {"trace"}, "a trace is a file, which is not in the image"
    assert {client_of({"loadTest": {"enabled": True, "profile": name}}).profile for name in allowed} == set(allowed)


def test_words_with_spaces_stay_one() -> None:
    name = "my model's $HOME"
    assert client_of({"loadTest": {"enabled": True, "args": ["--model", name]}}).model == name


def test_its_ray_cluster_asks_for_the_same_token_and_ends_with_it() -> None:
    spec = the("RayJob", value_set("pools"))["spec"]
    service = the("RayService", value_set("pools"))["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == service["rayClusterConfig"]["authOptions"]
    assert spec["shutdownAfterJobFinishes"] is True


def test_the_network_policy_lets_it_through() -> None:
    objects = rendered({"loadTest": {"enabled": True}, "networkPolicy": {"enabled": True}})
    (policy,) = of_kind(objects, "NetworkPolicy")
    (job,) = of_kind(objects, "RayJob")
    ours = policy["spec"]["podSelector"]["matchLabels"].items()
    assert {"from": [{"podSelector": {"matchLabels": dict(ours)}}]} in policy["spec"]["ingress"]
    templates = [job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"], job["spec"]["submitterPodTemplate"]]
    assert all(ours <= template["metadata"]["labels"].items() for template in templates)
