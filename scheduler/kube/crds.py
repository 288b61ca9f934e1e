"""The custom resource definitions, made from the types that read the files.

A type's JSON schema becomes the structural schema that an API server asks for: no references, no
unions, the bounds as they are, what says something as a default. The rules between fields, which
the types check in Python, stand here once more in CEL, so that the API server refuses what a file
would be refused for, and names the field. What CEL cannot know stays with the operator, which says
it in a condition: whether the catalogs know an accelerator or a model, and whether two names of an
accelerator are one.

``python -m scheduler.kube.crds`` writes them to ``charts/flopwise/crds``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.manifests.schema import IN_FILES_ONLY, KINDS
from planner.manifests.status import STATUSES
from planner.manifests.write import plain_yaml
from scheduler.kube.names import GPU_JOBS, GPU_POOLS, GPU_QUEUES, Resource

CHART_CRDS = Path(__file__).parents[2] / "charts" / "flopwise" / "crds"
HEADING = "# Written by `python -m scheduler.kube.crds` from planner/manifests: change it there.\n"

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of ``kubectl get``; a wide one is shown with ``-o wide`` only."""

    name: str
    path: str
    type: str = "string"
    says: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A kind of ours, what it is called for short, and what ``kubectl get`` shows of it."""

    resource: Resource
    short: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in CEL, and what a breach says: what was found, what is allowed, at which field."""

    cel: str
    allowed: str
    field: str = ""  # relative to where the rule stands
    found: str = ""  # fixed text: to write a value out costs more than an API server allows
    reason: str = "FieldValueInvalid"

    def document(self) -> Schema:
        """As a custom resource definition has it."""
        message = f"found {self.found}, allowed: {self.allowed}" if self.found else ""
        says = {"rule": self.cel, "message": message or f"allowed: {self.allowed}"}
        return (
            says | {"reason": self.reason} | ({"fieldPath": f".{self.field}"} if self.field else {})
        )


def _condition(name: str, what: str) -> str:
    return f'.status.conditions[?(@.type=="{name}")].{what}'


_AGE = Column(name="Age", path=".metadata.creationTimestamp", type="date")
_READY = (
    Column(name="Ready", path=_condition("Ready", "status"), says="Whether it can be used."),
    Column(name="Why", path=_condition("Ready", "message"), says="Why, or why not.", wide=True),
    _AGE,
)
SHOWN = (
    Shown(
        resource=GPU_POOLS,
        short="gpool",
        columns=(
            Column(name="Accelerator", path=".spec.accelerator"),
            Column(name="Nodes", path=".status.nodes", type="integer", says="That are ready."),
            Column(name="GPUs", path=".status.gpus", type="number", says="Of these nodes."),
            Column(name="Free", path=".status.freeGpus", type="number", says="GPUs not in use."),
            Column(name="Purchase", path=".spec.price.purchase", wide=True),
            Column(name="Region", path=".spec.site.region", wide=True),
            *_READY,
        ),
    ),
    Shown(
        resource=GPU_QUEUES,
        short="gqueue",
        columns=(
            Column(name="Parent", path=".spec.parent"),
            Column(name="Waiting", path=".status.waitingJobs", type="integer", says="Jobs."),
            Column(name="Running", path=".status.runningJobs", type="integer", says="Jobs."),
            Column(name="Weight", path=".spec.weight", type="number", wide=True),
            *_READY,
        ),
    ),
    Shown(
        resource=GPU_JOBS,
        short="gjob",
        columns=(
            Column(name="Queue", path=".spec.queue"),
            Column(
                name="State",
                # Conditions stand in a fixed order, what ends a job first.
                path='.status.conditions[?(@.status=="True")].type',
                says="The first of its conditions that holds.",
            ),
            Column(name="Pool", path=".status.plan.pool"),
            Column(name="GPUs", path=".status.plan.gpus", type="number"),
            Column(
                name="Start",
                path=".status.plan.expectedStart.at",  # not a date: kubectl has none ahead of now
                says="When it starts, or is expected to.",
            ),
            Column(name="Reason", path=_condition("Planned", "reason"), says="Why it waits."),
            Column(name="Priority", path=".spec.priority", type="integer", wide=True),
            Column(name="USD", path=".status.plan.costUsd", type="number", wide=True),
            Column(name="Workload", path=".status.launched.name", wide=True),
            Column(name="Why", path=_condition("Planned", "message"), wide=True),
            _AGE,
        ),
    ),
)

# CEL may cost so much only: what its rules go through twice is shorter here than in a file.
BOUNDS: Mapping[tuple[str, str], int] = {
    ("GpuPoolSpec", "availability"): 100,
    ("GpuPoolSpec", "topologyLevels"): 16,
    ("Topology", "nodesPerDomain"): 16,
}

# An API server makes an integer of the bound where a number was written as one, and it overflows.
LARGEST_BOUND = 2**53

LONGEST_KEY = 1000  # beyond it a text is any text, and no rule is worth its cost

# Lists whose entries have several owners under server-side apply; others are one value.
KEYS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("GpuPoolSpec", "availability"): ("from",),
    ("GpuPoolStatus", "conditions"): ("type",),
    ("GpuQueueStatus", "conditions"): ("type",),
    ("GpuJobStatus", "conditions"): ("type",),
}

# What runs is what was launched: these change by another job. Ray's runtime environment and the
# pod template have no schema that CEL could compare; a change of them counts from the next start.
FIXED_BY_LAUNCH = (
    "queue",
    *(f"training.{name}" for name in ("model", "flops", "method", "tokens")),
    *(f"training.{name}" for name in ("sequenceLength", "precision", "gpus")),
    *(f"inference.{name}" for name in ("model", "precision")),
    *(f"task.{name}" for name in ("replicas", "gpus", "gpuFraction", "migProfile")),
    *(f"task.{name}" for name in ("cpus", "memoryGib")),
    *(f"run.{name}" for name in ("image", "entrypoint")),
)


def _stated(of: str, path: str) -> str:
    """CEL for: ``of`` and all on the way down ``path`` is there."""
    steps = path.split(".")
    ways = (".".join([of, *steps[: depth + 1]]) for depth in range(len(steps)))
    return " && ".join(f"has({way})" for way in ways)


def _fixed_by_launch(path: str) -> Rule:
    now, before = _stated("self.spec", path), _stated("oldSelf.spec", path)
    return Rule(
        "!has(oldSelf.status) || !has(oldSelf.status.launched)"
        f" || ({now} ? {before} && self.spec.{path} == oldSelf.spec.{path} : !({before}))",
        "what it was when the job was launched",
        field=f"spec.{path}",
        reason="FieldValueForbidden",
    )


def _elastic(most: str, least: str) -> Rule:
    return Rule(
        f"!has(self.{most}) || self.{most} == 0 || self.{most} >= self.{least}",
        f"0, or {least} or more",
        field=most,
        found=f"less than {least}",
    )


def _from_somewhere(name: str) -> Rule:
    return Rule(
        f"!has(self.{name}) || self.{name} == 0.0 || (has(self.near) && self.near != '')",
        "0, or a region in near",
        field=name,
    )


_INSTANT = Rule(
    "self >= timestamp('1970-01-01T00:00:00Z') && self < timestamp('9001-01-01T00:00:00Z')",
    "a time such as 2026-12-01T00:00:00Z",
)
_OWNED = "has(self.price) && self.price.purchase == 'owned'"

_OF_TEXT = ("format", "pattern", "minLength", "maxLength")

RULES: Mapping[str, tuple[Rule, ...]] = {
    "GpuPoolSpec": (
        Rule(
            "!has(self.topology) || !has(self.topology.nodesPerDomain)"
            " || self.topology.nodesPerDomain.size()"
            " <= (has(self.topologyLevels) ? self.topologyLevels.size() : 0)",
            "one number for each of topologyLevels",
            field="topology.nodesPerDomain",
        ),
        Rule(
            "!has(self.availability) || self.availability.all(one, self.availability.all(other,"
            " one.from == other.from || one.to <= other.from || other.to <= one.from))",
            "windows that do not overlap",
            field="availability",
        ),
        Rule(
            "!has(self.owned) || !has(self.price) || self.price.purchase == 'owned'",
            "owned where price.purchase is owned",
            field="owned",
            found="it beside another price.purchase",
        ),
        Rule(
            f"!({_OWNED}) || has(self.owned) != has(self.price.usdPerGpuHour)",
            "one of owned and price.usdPerGpuHour, as price.purchase is owned",
            field="owned",
        ),
        Rule(
            "self.accelerator == oldSelf.accelerator",
            "what it was: another accelerator is another pool",
            field="accelerator",
            reason="FieldValueForbidden",
        ),
    ),
    "Site": (
        Rule(
            "has(self.latitude) == has(self.longitude)", "both of latitude and longitude, or none"
        ),
    ),
    "Availability": (Rule("self.to > self.from", "a time later than from", field="to"),),
    "Topology": (
        Rule(
            # Indices beside values have no older form: the list is at most as long as this one.
            f"!has(self.nodesPerDomain) || {list(range(1, BOUNDS['Topology', 'nodesPerDomain']))}"
            ".all(far, far >= self.nodesPerDomain.size() || self.nodesPerDomain[far] == 0"
            " || (self.nodesPerDomain[far - 1] > 0"
            " && self.nodesPerDomain[far] % self.nodesPerDomain[far - 1] == 0))",
            "0, or a multiple of the number before it",
            field="nodesPerDomain",
        ),
    ),
    "GpuQueue": (
        Rule(
            "!has(self.spec) || !has(self.spec.parent) || self.spec.parent != self.metadata.name",
            "another queue",
            field="spec.parent",
            found="the queue itself",
        ),
    ),
    "GpuQueueSpec": (
        Rule(
            "!has(self.guaranteed) || !has(self.limit) || self.guaranteed.all(name,"
            " !(name in self.limit) || self.guaranteed[name] <= self.limit[name])",
            "what is guaranteed, or more",
            field="limit",
        ),
    ),
    "GpuJob": (
        Rule(
            "!has(self.spec.dependsOn)"
            " || !self.spec.dependsOn.exists(name, name == self.metadata.name)",
            "other jobs",
            field="spec.dependsOn",
            found="the job itself",
        ),
        *map(_fixed_by_launch, FIXED_BY_LAUNCH),
    ),
    "GpuJobSpec": (
        Rule(
            "[has(self.training), has(self.inference), has(self.task)].exists_one(it, it)",
            "exactly one of training, inference, task",
        ),
        Rule(
            "has(self.training) == has(oldSelf.training)"
            " && has(self.inference) == has(oldSelf.inference)"
            " && has(self.task) == has(oldSelf.task)",
            "the kind of work it was made with (training, inference, task)",
            reason="FieldValueForbidden",
        ),
        Rule(
            "!has(self.deadline) || !has(self.earliestStart) || self.deadline > self.earliestStart",
            "a time later than earliestStart",
            field="deadline",
        ),
    ),
    "PlacementSpec": (_from_somewhere("maxLatencyMs"), _from_somewhere("dataGib")),
    "TrainingSpec": (
        Rule("has(self.model) != has(self.flops)", "exactly one of model, flops"),
        Rule(
            "!has(self.model) || has(self.tokens)",
            "a number above 0 (a model needs its tokens)",
            field="tokens",
            found="nothing",
            reason="FieldValueRequired",
        ),
        _elastic("maxGpus", "gpus"),
    ),
    "InferenceSpec": (
        Rule(
            "(has(self.requestsPerSecond) && self.requestsPerSecond > 0.0)"
            " != (has(self.hourlyRequestsPerSecond) && self.hourlyRequestsPerSecond.size() > 0)",
            "exactly one of requestsPerSecond, hourlyRequestsPerSecond",
        ),
        Rule(
            "!has(self.hourlyRequestsPerSecond) || self.hourlyRequestsPerSecond.size() in [0, 24]",
            "24 numbers, one an hour",
            field="hourlyRequestsPerSecond",
        ),
    ),
    "TaskSpec": (
        _elastic("maxReplicas", "replicas"),
        Rule(
            "[self.gpus > 1, has(self.gpuFraction) && self.gpuFraction > 0.0,"
            " has(self.migProfile) && self.migProfile != ''].filter(it, it).size() <= 1",
            "one of gpus above 1, gpuFraction, migProfile",
        ),
    ),
}


def definitions() -> dict[str, Schema]:
    """Each definition by the file it lies in."""
    made = map(definition, SHOWN)
    return {f"{each['metadata']['name']}.yaml": each for each in made}


def definition(shown: Shown) -> Schema:
    """The CustomResourceDefinition of a kind."""
    resource = shown.resource
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [shown.short],
                "categories": ["flopwise"],
            },
            "versions": [
                {
                    "name": resource.version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(map(_column, shown.columns)),
                    "schema": {"openAPIV3Schema": _root(resource.kind)},
                }
            ],
        },
    }


def _column(column: Column) -> Schema:
    shown: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.says:
        shown["description"] = column.says
    return shown | ({"priority": 1} if column.wide else {})


def _root(kind: str) -> Schema:
    """An object from the top: what every Kubernetes object has, its spec, its status."""
    types = KINDS[kind].model_json_schema(by_alias=True)
    spec = _Types(types["$defs"])
    status = STATUSES[kind].model_json_schema(by_alias=True)
    name = spec.structural(types["$defs"][spec.name_of(types["properties"]["metadata"])])
    called = {key: name["properties"]["name"][key] for key in ("type", "maxLength", "pattern")}
    root: Schema = {
        "description": types["description"],
        "type": "object",
        "required": [name for name in types["required"] if name == "spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": called}},
            "spec": spec.structural(types["properties"]["spec"]),
            "status": _Types(status["$defs"], judged=False).structural(status),
        },
    }
    return _without_nothing(root | _of(*RULES.get(kind, ())))


def _of(*rules: Rule) -> Schema:
    return {"x-kubernetes-validations": [rule.document() for rule in rules]}


def _without_nothing(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if value not in ([], {}, None)}


@dataclass(frozen=True, slots=True)
class _Types:
    """The schemas that others refer to, by name."""

    named: Mapping[str, Schema]
    judged: bool = True  # whether people write them: what we write ourselves needs no rules

    def name_of(self, schema: Schema) -> str:
        return str(schema.get("$ref", "")).rpartition("/")[2]

    def structural(self, schema: Schema, place: tuple[str, str] = ("", "")) -> Schema:
        """The schema as an API server takes it; ``place``: the type and the field it is of."""
        schema = self._resolved(schema)
        made: Schema = {"description": schema.get("description"), "type": schema["type"]}
        match schema["type"]:
            case "object":
                made |= self._object(schema)
            case "array":
                made |= self._array(schema, place)
            case "string":
                made |= {word: schema.get(word) for word in _OF_TEXT}
                made["enum"] = list(schema.get("enum", ()))  # its own: YAML would refer to one
                if schema.get("format") == "date-time" and self.judged:
                    made |= _of(_INSTANT)
            case "integer" | "number":
                made |= dict(_bounds(schema))
                if schema.get("maximum", 0) > LARGEST_BOUND and self.judged:
                    most = f"{schema['maximum']:g}"
                    made |= _of(Rule(f"self <= {most}", f"{most} or less"))
        default = schema.get("default")
        if default and not isinstance(default, dict | list):
            made["default"] = default  # others mean that nothing is stated
        return _without_nothing(made)

    def _resolved(self, schema: Schema) -> Schema:
        """Without a reference, and without the alternative of nothing."""
        while "anyOf" in schema or "$ref" in schema:
            here = {k: v for k, v in schema.items() if k not in ("anyOf", "$ref", "title")}
            if "$ref" in schema:
                schema = self.named[self.name_of(schema)] | here
            else:
                (kept,) = (each for each in schema["anyOf"] if each.get("type") != "null")
                schema = kept | here
        return schema

    def _object(self, schema: Schema) -> Schema:
        if "properties" in schema:
            part = str(schema["title"])  # the type's name
            return {
                "required": schema.get("required", []),
                "properties": {
                    name: self.structural(inner, (part, name))
                    for name, inner in schema["properties"].items()
                    if not inner.get(IN_FILES_ONLY)
                },
            } | _of(*RULES.get(part, ()))
        if schema["additionalProperties"] is True:
            return {"x-kubernetes-preserve-unknown-fields": True}
        return self._map(schema)

    def _map(self, schema: Schema) -> Schema:
        # What counts a mapping's entries is called a length where the type wraps the mapping.
        most = schema.get("maxProperties", schema.get("maxLength"))
        least = schema.get("minProperties", schema.get("minLength"))
        made = {
            "additionalProperties": self.structural(schema["additionalProperties"]),
            "maxProperties": most,
            "minProperties": least,
        }
        longest = schema.get("propertyNames", {}).get("maxLength", 0)
        if 0 < longest <= LONGEST_KEY and self.judged:
            short = f"self.all(name, name.size() <= {longest})"
            made |= _of(Rule(short, f"names of at most {longest} characters"))
        return made

    def _array(self, schema: Schema, place: tuple[str, str]) -> Schema:
        keys = KEYS.get(place)
        most = BOUNDS.get(place, schema["maxItems"])
        return {
            "maxItems": most,
            "minItems": schema.get("minItems"),
            "items": self.structural(schema["items"]),
            "x-kubernetes-list-type": "map" if keys else "atomic",
            "x-kubernetes-list-map-keys": list(keys or ()),
        }


def _bounds(schema: Schema) -> Iterator[tuple[str, object]]:
    """Least and most of a number; that the bound itself is left out is a flag here."""
    if schema["type"] == "integer":
        yield "format", "int64"
    for word, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in schema:
            yield word, schema[exclusive]
            yield exclusive, True
        elif word in schema and abs(schema[word]) <= LARGEST_BOUND:
            yield word, schema[word]


def write(folder: Path = CHART_CRDS) -> None:
    """Write each definition into ``folder``, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in definitions().items():
        (folder / name).write_text(HEADING + plain_yaml(document), encoding="utf-8")


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
