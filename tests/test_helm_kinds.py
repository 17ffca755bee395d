"""Every object that the chart renders, held against the schema of its kind; and that the check finds what is wrong."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.helm_chart import VALUE_SETS, of_kind, rendered, the, value_set
from tests.helm_kinds import ELSEWHERE, FILES, WrongObjectError, check, needs_crds

EVERYTHING = {"loadTest": {"enabled": True}, "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"}}


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_object_fits_its_kind(name: str) -> None:
    objects = rendered(value_set(name))
    for item in objects:
        check(item)
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)


def test_together_the_value_sets_render_every_kind() -> None:
    kinds = {item["kind"] for name in VALUE_SETS for item in rendered(value_set(name))}
    ours = {"ServiceAccount", "Secret", "PersistentVolumeClaim", "Job", "Pod", "ConfigMap", "PodDisruptionBudget"}
    assert kinds == ours | {"NetworkPolicy", "Ingress"} | FILES.keys() | ELSEWHERE


def test_a_budget_may_be_a_part() -> None:
    for budget in of_kind(rendered(EVERYTHING), "PodDisruptionBudget"):
        check(budget)
        assert budget["spec"]["maxUnavailable"] == "50%"


@needs_crds
def test_rocksdb_keeps_the_heads_state_too() -> None:
    values = {"ray": {"gcsFaultTolerance": {"backend": "rocksdb", "rocksdb": {"storageClassName": "fast"}}}}
    service = the("RayService", values)
    check(service)
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert options == {"backend": "rocksdb", "storage": {"size": "1Gi", "storageClassName": "fast"}}


def group(service: dict[str, Any]) -> dict[str, Any]:
    return dict(service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0])


def put(service: dict[str, Any], key: str, value: Any) -> None:
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0][key] = value


PLANTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "minReplica": lambda service: put(service, "minReplica", 1),
    "maxReplicas": lambda service: put(service, "maxReplicas", "3"),
    "containers": lambda service: put(service, "template", {"spec": {}}),
    "modes": lambda service: service["spec"]["rayClusterConfig"]["authOptions"].update(modes="token"),
    "off": lambda service: service["spec"]["rayClusterConfig"]["authOptions"].update(mode="off"),
    "contanerPort": lambda service: group(service)["template"]["spec"]["containers"][0]["ports"][0].update(
        contanerPort=1
    ),
}


@needs_crds
@pytest.mark.parametrize("word", PLANTED)
def test_a_planted_mistake_in_the_service_is_found(word: str) -> None:
    service = copy.deepcopy(the("RayService", value_set("minimal")))
    check(service)
    PLANTED[word](service)
    with pytest.raises(WrongObjectError, match=word):
        check(service)


def test_a_planted_mistake_in_a_kind_of_kubernetes_is_found() -> None:
    policy = copy.deepcopy(the("NetworkPolicy", value_set("ha")))
    policy["spec"]["podSelectr"] = {}
    with pytest.raises(WrongObjectError, match="podSelectr"):
        check(policy)
