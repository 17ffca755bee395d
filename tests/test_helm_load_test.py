"""The RayJob of the chart: a load test that knows where the service is."""

import shlex

from tests.helm_chart import of_kind, rendered, the, value_set


def test_it_asks_the_releases_service() -> None:
    values = {"loadTest": {"enabled": True, "args": ["--requests", "400"]}, "config": {"http": {"port": 8080}}}
    words = shlex.split(the("RayJob", values)["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "bench.load"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    url = "http://demo-raydix-serve-svc:8080"
    assert options == {"--profile": "shared-prefix", "--url": url, "--requests": "400"}


def test_words_with_spaces_stay_one() -> None:
    values = {"loadTest": {"enabled": True, "args": ["--model", "my model's $HOME"]}}
    assert shlex.split(the("RayJob", values)["spec"]["entrypoint"])[-1] == "my model's $HOME"


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
