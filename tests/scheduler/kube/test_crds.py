"""The custom resource definitions: what they are made of, and that the chart holds just these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from planner.manifests import wording
from planner.manifests.schema import KINDS, InferenceSpec
from planner.manifests.status import JobCondition
from planner.manifests.write import plain_yaml
from scheduler.kube import crds

BY_KIND = {each["spec"]["names"]["kind"]: each for each in crds.definitions().values()}

# What each check of a type has become. One that is not here was forgotten in the cluster.
CARRIED = {
    "Availability._after_from": "Availability: self.to > self.from",
    "Site._both": "Site: has(self.latitude) == has(self.longitude)",
    "Topology._nested": "Topology: % self.nodesPerDomain[far - 1] == 0",
    "GpuPoolSpec._apart": "GpuPoolSpec: one.to <= other.from",
    "GpuPoolSpec._of_its_levels": "GpuPoolSpec: self.topologyLevels.size()",
    "GpuPoolSpec._owned_or_priced": "GpuPoolSpec: self.price.purchase == 'owned'",
    "GpuQueueSpec._guarantee_within": "GpuQueueSpec: self.guaranteed[name] <= self.limit[name]",
    "PlacementSpec._from_somewhere": "PlacementSpec: self.near != ''",
    "TrainingSpec._model_or_flops": "TrainingSpec: has(self.model) != has(self.flops)",
    "TrainingSpec._of_a_model": "TrainingSpec: has(self.tokens)",
    "TrainingSpec._at_least_gpus": "TrainingSpec: self.maxGpus >= self.gpus",
    "InferenceSpec._a_whole_day": "InferenceSpec: size() in [0, 24]",
    "InferenceSpec._one_demand": "InferenceSpec: self.requestsPerSecond > 0.0",
    "TaskSpec._at_least_replicas": "TaskSpec: self.maxReplicas >= self.replicas",
    "TaskSpec._one_share": "TaskSpec: self.gpus > 1",
    "GpuJobSpec._after_start": "GpuJobSpec: self.deadline > self.earliestStart",
    "GpuJobSpec._one_kind": "GpuJobSpec: has(self.training), has(self.inference), has(self.task)",
}


def schema(kind: str) -> dict[str, Any]:
    (version,) = BY_KIND[kind]["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def at(kind: str, path: str) -> dict[str, Any]:
    """The schema of a field, by its path."""
    here = schema(kind)
    for step in path.split("."):
        here = here["items"] if step == "[]" else here["properties"][step]
    return here


def nodes(here: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below, with its path."""
    yield path, here
    for name, inner in here.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in here:
            yield from nodes(here[word], f"{path}[]")


def every_node() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{kind}{path}", node) for kind in KINDS for path, node in nodes(schema(kind))]


def test_the_chart_holds_the_definitions_that_the_types_make() -> None:
    wanted = {
        name: crds.HEADING + plain_yaml(document) for name, document in crds.definitions().items()
    }
    held = {path.name: path.read_text() for path in crds.CHART_CRDS.iterdir()}
    assert held == wanted, "run `python -m scheduler.kube.crds`"


def test_each_schema_has_one_type_and_no_word_that_an_api_server_refuses() -> None:
    refused = {"anyOf", "oneOf", "allOf", "$ref", "$defs", "const", "title", "propertyNames"}
    assert [path for path, node in every_node() if "type" not in node] == []
    assert [path for path, node in every_node() if refused & node.keys()] == []


def test_each_list_has_an_end_and_says_whether_others_may_own_an_entry() -> None:
    lists = [(path, node) for path, node in every_node() if node["type"] == "array"]
    assert [path for path, node in lists if not node.get("maxItems")] == []
    kinds = {path: node.get("x-kubernetes-list-type") for path, node in lists}
    assert set(kinds.values()) == {"atomic", "map"}
    assert kinds["GpuJob.status.conditions"] == kinds["GpuPool.spec.availability"] == "map"


def test_each_mapping_and_each_text_has_an_end() -> None:
    # runtimeEnv and podTemplate are any JSON: the API server bounds the object as a whole.
    open_ended = [
        path
        for path, node in every_node()
        if (node["type"] == "object" and "additionalProperties" in node)
        and not node.get("maxProperties")
    ]
    endless = [
        path
        for path, node in every_node()
        if node["type"] == "string"
        and not ({"maxLength", "enum", "format", "pattern"} & node.keys())
        and path.split(".")[1:] not in (["apiVersion"], ["kind"])
    ]
    assert open_ended == endless == []


def test_what_only_files_say_is_not_in_the_cluster() -> None:
    fields = {field.alias for field in InferenceSpec.model_fields.values()}
    assert fields - at("GpuJob", "spec.inference")["properties"].keys() == {"requestTrace"}


def test_each_other_field_of_a_type_is_in_the_cluster() -> None:
    assert at("GpuJob", "spec.task")["required"] == ["hours"]
    hours = at("GpuJob", "spec.task.hours")
    assert (hours["minProperties"], hours["maxProperties"]) == (1, 1000)
    value = hours["additionalProperties"]
    assert (value["type"], value["minimum"], value["exclusiveMinimum"]) == ("number", 0, True)
    geometries = at("GpuPool", "spec.migGeometries.[]")
    assert (geometries["minItems"], geometries["maxItems"]) == (1, 8)
    assert at("GpuPool", "spec.site.kind")["enum"] == ["cloud", "onprem", "edge"]
    assert at("GpuJob", "spec.run.podTemplate") == {
        "description": "Merged over ours.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }


def test_a_bound_beyond_whole_numbers_is_a_rule() -> None:
    # An API server compares a number written as an integer with the bound as an integer: 1e30
    # would become the least of all, and every number be too large.
    tokens = at("GpuJob", "spec.training.tokens")
    assert "maximum" not in tokens
    assert tokens["x-kubernetes-validations"][0]["rule"] == "self <= 1e+30"
    assert [p for p, node in every_node() if abs(node.get("maximum", 0)) > 2**53] == []


def test_a_default_that_says_something_is_the_clusters_too() -> None:
    assert at("GpuQueue", "spec.weight")["default"] == 1.0
    assert at("GpuJob", "spec.preemptible")["default"] is True
    assert at("GpuPool", "spec.price.purchase")["default"] == "on_demand"
    silent = ("spec.queue", "spec.priority", "spec.required", "spec.dependsOn", "spec.checkpoint")
    assert [path for path in silent if "default" in at("GpuJob", path)] == []


def test_a_name_is_as_short_in_the_cluster_as_in_a_file() -> None:
    name = at("GpuJob", "metadata.name")
    assert (name["maxLength"], name["pattern"]) == (
        63,
        at("GpuJob", "spec.placement.pools.[]")["pattern"],
    )


def parts() -> list[type[BaseModel]]:
    """Every model that a spec is made of."""
    found = list[type[BaseModel]](KINDS.values())
    for model in found:
        inner = (wording._part(field.annotation) for field in model.model_fields.values())
        found += [part for part in inner if part and part not in found]
    return found


def test_each_check_between_fields_is_carried_into_the_cluster() -> None:
    checks = {
        f"{part.__name__}.{name}"
        for part in parts()
        for name in part.__pydantic_decorators__.field_validators
    }
    assert checks == CARRIED.keys()


@pytest.mark.parametrize("carried", CARRIED.values(), ids=CARRIED)
def test_a_check_is_a_rule_of_its_part(carried: str) -> None:
    part, words = carried.split(": ", 1)
    assert [rule.cel for rule in crds.RULES[part] if words in rule.cel] != []


def test_a_rule_says_what_it_found_what_is_allowed_and_at_which_field() -> None:
    rules = at("GpuJob", "spec.task")["x-kubernetes-validations"]
    assert rules[0] == {
        "rule": (
            "!has(self.maxReplicas) || self.maxReplicas == 0 || self.maxReplicas >= self.replicas"
        ),
        "message": "found less than replicas, allowed: 0, or replicas or more",
        "reason": "FieldValueInvalid",
        "fieldPath": ".maxReplicas",
    }


def test_a_rule_about_a_launched_job_knows_a_field_that_is_gone_or_new() -> None:
    (rule,) = (r.cel for r in crds.RULES["GpuJob"] if r.field == "spec.task.cpus")
    assert rule == (
        "!has(oldSelf.status) || !has(oldSelf.status.launched) || "
        "(has(self.spec.task) && has(self.spec.task.cpus)"
        " ? has(oldSelf.spec.task) && has(oldSelf.spec.task.cpus)"
        " && self.spec.task.cpus == oldSelf.spec.task.cpus"
        " : !(has(oldSelf.spec.task) && has(oldSelf.spec.task.cpus)))"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_field_of_each_rule_exists(kind: str) -> None:
    missing = [
        f"{path}{rule['fieldPath']}"
        for path, node in nodes(schema(kind))
        for rule in node.get("x-kubernetes-validations", ())
        if "fieldPath" in rule and not _exists(node, rule["fieldPath"])
    ]
    assert missing == []


def _exists(node: dict[str, Any], path: str) -> bool:
    for step in path.removeprefix(".").split("."):
        if step not in node.get("properties", {}):
            return False
        node = node["properties"][step]
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_a_status_of_its_own_short_names_and_columns_with_the_age_last(
    kind: str,
) -> None:
    spec = BY_KIND[kind]["spec"]
    (version,) = spec["versions"]
    assert version["subresources"] == {"status": {}}
    assert spec["names"]["shortNames"] == [f"g{kind.removeprefix('Gpu').lower()}"]
    assert spec["names"]["categories"] == ["flopwise"]
    assert version["additionalPrinterColumns"][-1] == {
        "name": "Age",
        "type": "date",
        "jsonPath": ".metadata.creationTimestamp",
    }
    conditions = at(kind, "status.conditions")
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["required"]) == {
        *("type", "status", "reason", "message", "lastTransitionTime")
    }


def test_pools_and_queues_are_the_clusters_and_jobs_a_namespaces() -> None:
    scopes = {kind: each["spec"]["scope"] for kind, each in BY_KIND.items()}
    assert scopes == {"GpuPool": "Cluster", "GpuQueue": "Cluster", "GpuJob": "Namespaced"}


def test_a_jobs_conditions_stand_with_what_ends_it_first() -> None:
    # The column State is the first that holds: a job that failed while it ran has failed.
    assert list(JobCondition) == [
        *("Succeeded", "Failed", "Preempted", "Running", "Launched", "Planned"),
        *("IdleWorkload", "TokenRefused"),
    ]
