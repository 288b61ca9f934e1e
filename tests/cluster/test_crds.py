"""The custom resources before a real API server: what it takes, what it refuses and how it says so.

The tables of what a type refuses and allows (tests/planner/manifests) are asked of the API server
too: a file and the cluster give the same verdict, at the same field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.manifests.read import read
from planner.manifests.status import (
    Condition,
    ConditionStatus,
    ExpectedStart,
    GpuJobStatus,
    GpuPoolStatus,
    GpuQueueStatus,
    JobCondition,
    JobPlan,
    Launched,
)
from planner.manifests.text import documents
from scheduler.controller.summary import Stock, Sums, pool_status, queue_status
from scheduler.kube.crds import FIXED_BY_LAUNCH
from tests.cluster.api import Object, Refused
from tests.cluster.cluster import Cluster
from tests.planner.manifests.test_schema import ALLOWED, POOL, REFUSED, TASK, TRAINING

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
BASE = "/apis/flopwise.dev/v1alpha1"
MANIFESTS = sorted((ROOT / "examples").glob("*.yaml"))

# What only the catalogs and JSON itself can tell.
ELSEWHERE = {"a number that JSON has not"}

Make = Callable[..., Object]


def written(kind: str, name: str, spec: dict[str, Any]) -> Object:
    own = {"apiVersion": "flopwise.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
    return own | {"spec": spec}


def job(spec: dict[str, Any], name: str = "job") -> Object:
    return written("GpuJob", name, spec)


def pool(spec: dict[str, Any], name: str = "pool") -> Object:
    return written("GpuPool", name, spec)


def queue(spec: dict[str, Any], name: str = "queue") -> Object:
    return written("GpuQueue", name, spec)


# A part of a manifest, as a whole object, and the path at which it stands there.
WHOLE: dict[str, tuple[str, Callable[[dict[str, Any]], Object]]] = {
    "GpuPoolSpec": ("spec", pool),
    "Topology": (
        "spec.topology",
        lambda part: pool(POOL | {"topologyLevels": ["rack", "row"], "topology": part}),
    ),
    "Site": ("spec.site", lambda part: pool(POOL | {"site": part})),
    "Price": ("spec.price", lambda part: pool(POOL | {"price": part})),
    "Owned": ("spec.owned", lambda part: pool(POOL | {"owned": part})),
    "Power": ("spec.power", lambda part: pool(POOL | {"power": part})),
    "GpuQueueSpec": ("spec", queue),
    "GpuJobSpec": ("spec", job),
    "TrainingSpec": ("spec.training", lambda part: job({"training": part})),
    "InferenceSpec": ("spec.inference", lambda part: job({"inference": part})),
    "TaskSpec": ("spec.task", lambda part: job({"task": part})),
    "PlacementSpec": ("spec.placement", lambda part: job({"task": TASK, "placement": part})),
    "Checkpoint": ("spec.checkpoint", lambda part: job({"task": TASK, "checkpoint": part})),
    "RunSpec": ("spec.run", lambda part: job({"task": TASK, "run": part})),
}


def with_whole_times(value: Any) -> Any:
    """Days as times: a file takes both, the API server times alone."""
    if isinstance(value, dict):
        return {name: with_whole_times(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_whole_times(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return f"{value}T00:00:00Z"
    return value


@pytest.fixture
def make(kinds: Cluster, namespace: str) -> Iterator[Make]:
    """Makes an object, as clients of ours do: whatever the API server does not know is refused."""
    made: list[str] = []

    def making(of: Object, **query: str) -> Object:
        path = collection(of, namespace)
        answer = kinds.api.post(path, of, fieldValidation="Strict", **query)
        made.append(f"{path}/{of['metadata']['name']}")
        return answer

    yield making
    for path in made:
        kinds.remove(path)


def collection(of: Object, namespace: str) -> str:
    if of["kind"] == "GpuJob":
        return f"{BASE}/namespaces/{namespace}/gpujobs"
    return f"{BASE}/{of['kind'].lower()}s"


def path_of(of: Object) -> str:
    own = of["metadata"]
    return f"{collection(of, own.get('namespace', ''))}/{own['name']}"


def refusal(make: Make, of: Object) -> str:
    with pytest.raises(Refused) as refused:
        make(of, dryRun="All")
    return refused.value.message


def readme_manifests() -> bytes:
    """The README's pool, queue and jobs."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return "---\n".join(block for block in blocks if "kind: GpuPool" in block).encode()


def test_each_manifest_of_the_example_is_taken_and_reads_back_as_the_file_does(
    make: Make, kinds: Cluster, namespace: str, tmp_path: Path
) -> None:
    raw = [each for path in MANIFESTS for each in documents(path.read_bytes(), ".yaml")]
    stored = []
    for each in raw:
        assert isinstance(each, dict)
        each["metadata"].pop("namespace", None)
        stored.append(kinds.api.get(path_of(make(each))))
    assert len(stored) == len(raw) > 40
    (tmp_path / "file.jsonl").write_text("\n".join(map(json.dumps, in_namespace(raw, namespace))))
    (tmp_path / "cluster.jsonl").write_text("\n".join(map(json.dumps, stored)))
    file, cluster = read([tmp_path / "file.jsonl"]), read([tmp_path / "cluster.jsonl"])
    # A pool or queue is the same but for the namespace, and every job is the same.
    assert cluster.pools == file.pools
    assert cluster.queues == file.queues
    assert cluster.jobs == file.jobs


def in_namespace(raw: list[Any], namespace: str) -> list[Any]:
    own = {"namespace": namespace}
    return [
        each | {"metadata": each["metadata"] | (own if each["kind"] == "GpuJob" else {})}
        for each in raw
    ]


def test_the_manifests_of_the_readme_are_taken(make: Make) -> None:
    taken = [make(each) for each in documents(readme_manifests(), ".yaml")]
    assert [each["kind"] for each in taken] == ["GpuPool", "GpuQueue", *["GpuJob"] * 3]


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in ELSEWHERE])
def test_what_a_type_refuses_the_api_server_refuses_at_the_same_field(
    case: str, make: Make
) -> None:
    model, fields, told = REFUSED[case]
    place, whole = WHOLE[model.__name__]
    path = told.partition(":")[0]
    message = refusal(make, whole(with_whole_times(fields)))
    assert (f"{place}.{path}" if path else place) in message


@pytest.mark.parametrize("case", ALLOWED)
def test_what_a_type_allows_the_api_server_takes(case: str, make: Make) -> None:
    model, fields = ALLOWED[case]
    _, whole = WHOLE[model.__name__]
    in_cluster = {name: value for name, value in fields.items() if name != "requestTrace"}
    make(whole(with_whole_times(in_cluster)), dryRun="All")


SERVICE = {"model": "llama-3.1-8b", "promptTokens": 512, "outputTokens": 64}

NONSENSE: dict[str, tuple[Object, str]] = {
    "two kinds of work": (
        job({"task": TASK, "training": TRAINING}),
        "spec: Invalid value: allowed: exactly one of training, inference, task",
    ),
    "no work at all": (
        job({"queue": "research"}),
        "spec: Invalid value: allowed: exactly one of training, inference, task",
    ),
    "no spec": (
        {k: v for k, v in job({}).items() if k != "spec"},
        "spec: Required value",
    ),
    "a field that is not known": (
        job({"task": TASK, "run": {"entrypont": "python train.py"}}),
        'strict decoding error: unknown field "spec.run.entrypont"',
    ),
    "a trace, which lies in a file": (
        job({"inference": SERVICE | {"requestTrace": "a.csv"}}),
        'strict decoding error: unknown field "spec.inference.requestTrace"',
    ),
    "fewer than no GPUs": (
        job({"task": TASK | {"gpus": -8}}),
        (
            "spec.task.gpus: Invalid value: -8: spec.task.gpus in body should be greater than or "
            "equal to 1"
        ),
    ),
    "an image of a book": (
        job({"task": TASK, "run": {"image": "x" * 65537}}),
        "spec.run.image: Too long: may not be more than 65536 bytes",
    ),
    "a name longer than a label": (
        job({"task": TASK}, name="x" * 64),
        "metadata.name: Too long: may not be more than 63 bytes",
    ),
    "text for a number": (
        job({"task": TASK | {"replicas": "two"}}),
        (
            'spec.task.replicas: Invalid value: "string": spec.task.replicas in body must be of '
            'type integer: "string"'
        ),
    ),
    "a word that is none of those allowed": (
        job({"training": TRAINING | {"method": "full"}}),
        (
            'spec.training.method: Unsupported value: "full": supported values: "Pretrain", '
            '"Full", "Lora", "Qlora"'
        ),
    ),
    "a day that is none": (
        job({"task": TASK, "due": "2026-02-30T00:00:00Z"}),
        "spec.due: Invalid value",
    ),
    "a year before computers": (
        job({"task": TASK, "due": "1869-12-01T00:00:00Z"}),
        (
            'spec.due: Invalid value: "1869-12-01T00:00:00Z": allowed: a time such as '
            "2026-12-01T00:00:00Z"
        ),
    ),
    "more FLOPs than there are": (
        job({"training": {"flops": 2e30}}),
        "spec.training.flops: Invalid value: 2e+30: allowed: 1e+30 or less",
    ),
    "half of a place": (
        pool(POOL | {"site": {"latitude": 50.1}}),
        "spec.site: Invalid value: allowed: both of latitude and longitude, or none",
    ),
    "a job that waits for itself": (
        job({"task": TASK, "dependsOn": ["other", "job"]}),
        "spec.dependsOn: Invalid value: found the job itself, allowed: other jobs",
    ),
    "a queue above itself": (
        queue({"parent": "queue"}),
        "spec.parent: Invalid value: found the queue itself, allowed: another queue",
    ),
    "an accelerator of an endless name": (
        queue({"limit": {"x" * 101: 8}}),
        "spec.limit: Invalid value: allowed: names of at most 100 characters",
    ),
    "an elastic range that shrinks": (
        job({"task": TASK | {"replicas": 4, "maxReplicas": 2}}),
        (
            "spec.task.maxReplicas: Invalid value: found less than replicas, allowed: 0, or "
            "replicas or more"
        ),
    ),
    "a model without its tokens": (
        job({"training": {"model": "llama-3.1-8b"}}),
        (
            "spec.training.tokens: Required value: found nothing, allowed: a number above 0 (a "
            "model needs its tokens)"
        ),
    ),
    "more levels than the API server would go through": (
        pool(POOL | {"topologyLevels": [f"level-{level}" for level in range(17)]}),
        "spec.topologyLevels: Too many: 17: must have at most 16 items",
    ),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_with_the_field_and_what_is_allowed(case: str, make: Make) -> None:
    of, told = NONSENSE[case]
    assert told in refusal(make, of)


def windows(count: int) -> list[dict[str, Any]]:
    """As many hours, an hour apart, the last first."""
    starts = [2 * hour for hour in reversed(range(count))]
    return [{"from": hour_of(start), "to": hour_of(start + 1), "nodes": 0} for start in starts]


def hour_of(hour: int) -> str:
    return f"2026-{1 + hour // 600:02}-{1 + hour // 24 % 25:02}T{hour % 24:02}:00:00Z"


def test_the_largest_objects_cost_no_more_than_the_rules_may(make: Make) -> None:
    by_name = {f"accelerator-{number:080}": 8 for number in range(1000)}
    largest = [
        pool(
            POOL
            | {
                "availability": windows(100),
                "topologyLevels": [f"level-{level}" for level in range(16)],
                "topology": {"nodesPerDomain": [2**level for level in range(16)]},
            }
        ),
        queue({"guaranteed": by_name, "lendable": by_name, "limit": by_name}),
        job({"task": TASK, "dependsOn": [f"job-{number:050}" for number in range(10_000)]}),
        job({"training": TRAINING | {"throughput": by_name}}),
    ]
    for of in largest:
        make(of, dryRun="All")


def test_more_windows_than_the_rules_go_through_are_refused(make: Make) -> None:
    message = refusal(make, pool(POOL | {"availability": windows(101)}))
    assert "spec.availability: Too many: 101: must have at most 100 items" in message


def test_a_large_number_may_be_written_as_an_integer(make: Make) -> None:
    for tokens in (2_000_000_000, 10**18, 1e21):
        make(job({"training": TRAINING | {"tokens": tokens}}), dryRun="All")


def test_what_is_not_stated_has_the_types_default(make: Make) -> None:
    made = make(job({"training": TRAINING}))["spec"]
    assert made["preemptible"] is True
    assert made["training"] == TRAINING | {
        "method": "Full",
        "sequenceLength": 8192,
        "precision": "bf16",
        "gpus": 1,
    }


# -- changes ------------------------------------------------------------------------------------


def change(kinds: Cluster, of: Object, spec: dict[str, Any]) -> Object:
    return kinds.api.patch(path_of(of), {"spec": spec})


def change_refused(kinds: Cluster, of: Object, spec: dict[str, Any]) -> str:
    with pytest.raises(Refused) as refused:
        change(kinds, of, spec)
    return refused.value.message


def report(
    kinds: Cluster, of: Object, status: GpuJobStatus | GpuPoolStatus | GpuQueueStatus
) -> Object:
    """Writes a status; what is not stated is left out."""
    told = status.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return kinds.api.patch(f"{path_of(of)}/status", {"status": told})


def condition(kind: JobCondition, status: ConditionStatus, reason: str) -> Condition:
    return Condition.model_validate(
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": f"{reason}, to the letter",
            "lastTransitionTime": "2026-12-01T00:00:00Z",
            "observedGeneration": 1,
        }
    )


LAUNCHED = GpuJobStatus(launched=Launched(kind="RayJob", name="job", attempt=1))


def test_the_kind_of_work_never_changes(make: Make, kinds: Cluster) -> None:
    made = make(job({"task": TASK}))
    message = change_refused(kinds, made, {"task": None, "training": TRAINING})
    assert (
        "spec: Forbidden: allowed: the kind of work it was made with (training, inference, task)"
        in message
    )


def test_what_waits_may_still_change(make: Make, kinds: Cluster) -> None:
    made = make(job({"task": TASK, "run": {"image": "a"}}))
    changed = change(kinds, made, {"queue": "other", "task": {"gpus": 4}, "run": {"image": "b"}})
    assert (changed["spec"]["task"]["gpus"], changed["spec"]["queue"]) == (4, "other")
    assert changed["metadata"]["generation"] == 2


CHANGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "queue": ({"task": TASK, "queue": "a"}, {"queue": "b"}),
    "task.gpus": ({"task": TASK | {"gpus": 2}}, {"task": {"gpus": 4}}),
    "task.replicas": ({"task": TASK}, {"task": {"replicas": 2}}),
    "task.gpuFraction": ({"task": TASK}, {"task": {"gpuFraction": 0.5}}),
    "task.memoryGib": ({"task": TASK | {"memoryGib": 8}}, {"task": {"memoryGib": None}}),
    "training.tokens": ({"training": TRAINING}, {"training": {"tokens": 2e9}}),
    "training.precision": ({"training": TRAINING}, {"training": {"precision": "fp8"}}),
    "inference.model": (
        {"inference": SERVICE | {"requestsPerSecond": 1}},
        {"inference": {"model": "llama-3.3-70b"}},
    ),
    "run.image": ({"task": TASK, "run": {"image": "a"}}, {"run": {"image": "b"}}),
    "run.entrypoint": ({"task": TASK}, {"run": {"entrypoint": "python train.py"}}),
}


def test_the_table_of_changes_has_fields_of_each_part() -> None:
    assert CHANGED.keys() <= set(FIXED_BY_LAUNCH)


@pytest.mark.parametrize("field", CHANGED)
def test_what_was_launched_does_not_change(field: str, make: Make, kinds: Cluster) -> None:
    before, after = CHANGED[field]
    made = make(job(before))
    report(kinds, made, LAUNCHED)
    message = change_refused(kinds, made, after)
    assert f"spec.{field}: Forbidden: allowed: what it was when the job was launched" in message


def test_when_a_launched_job_runs_and_what_it_is_worth_may_change(
    make: Make, kinds: Cluster
) -> None:
    made = make(job({"inference": SERVICE | {"requestsPerSecond": 1}}))
    report(kinds, made, LAUNCHED)
    spec = {
        "priority": 9,
        "deadline": "2030-01-01T00:00:00Z",
        "inference": {"requestsPerSecond": 5},
    }
    assert change(kinds, made, spec)["spec"]["priority"] == 9


def test_a_pool_keeps_its_accelerator(make: Make, kinds: Cluster) -> None:
    made = make(pool(POOL))
    message = change_refused(kinds, made, {"accelerator": "h100"})
    assert "spec.accelerator: Forbidden: allowed: what it was: another accelerator is" in message
    assert change(kinds, made, {"nodes": 9})["spec"]["nodes"] == 9


# -- status -------------------------------------------------------------------------------------


def test_a_status_is_written_beside_the_spec_and_leaves_it_as_it_is(
    make: Make, kinds: Cluster
) -> None:
    made = make(job({"task": TASK}))
    both = {"spec": {"priority": 9}, "status": {"observedGeneration": 1}}
    answer = kinds.api.patch(f"{path_of(made)}/status", both)
    assert answer["status"] == {"observedGeneration": 1}
    assert "priority" not in answer["spec"]
    assert answer["metadata"]["generation"] == 1
    ignored = kinds.api.patch(path_of(made), {"status": {"observedGeneration": 7}})
    assert ignored["status"] == {"observedGeneration": 1}


def test_a_condition_without_a_reason_is_refused(make: Make, kinds: Cluster) -> None:
    made = make(job({"task": TASK}))
    bare = {"type": "Planned", "status": "True", "lastTransitionTime": "2026-12-01T00:00:00Z"}
    with pytest.raises(Refused, match=r"status\.conditions\[0\]\.reason: Required value"):
        kinds.api.patch(f"{path_of(made)}/status", {"status": {"conditions": [bare]}})


def test_kubectl_shows_where_a_job_is_and_why(make: Make, kinds: Cluster, namespace: str) -> None:
    made = make(job({"task": TASK, "queue": "research", "priority": 100}))
    status = GpuJobStatus(
        observed_generation=1,
        conditions=(
            condition(JobCondition.SUCCEEDED, ConditionStatus.FALSE, "Running"),
            condition(JobCondition.RUNNING, ConditionStatus.TRUE, "Running"),
            condition(JobCondition.LAUNCHED, ConditionStatus.TRUE, "Launched"),
            condition(JobCondition.PLANNED, ConditionStatus.TRUE, "Placed"),
        ),
        plan=JobPlan.model_validate(
            {
                "pool": "h100",
                "nodes": ["h100-0"],
                "gpus": 8,
                "start": "2026-12-01T00:00:00Z",
                "end": "2026-12-01T06:00:00Z",
                "costUsd": 12.5,
                "expectedStart": ExpectedStart.model_validate({"at": "2026-12-01T00:05:00Z"}),
            }
        ),
        launched=Launched(kind="RayJob", name="job-1", attempt=1),
    )
    report(kinds, made, status)
    heading, row = kinds.kubectl("-n", namespace, "get", "gjob").splitlines()
    assert heading.split() == ["NAME", "QUEUE", "STATE", "POOL", "GPUS", "START", "REASON", "AGE"]
    shown = ["job", "research", "Running", "h100", "8", "2026-12-01T00:05:00Z", "Placed"]
    assert row.split()[:-1] == shown
    wide = kinds.kubectl("-n", namespace, "get", "gpujobs", "-o", "wide").splitlines()[1]
    assert "100" in wide.split()
    assert "12.5" in wide.split()
    assert "job-1" in wide.split()


def test_kubectl_finds_all_kinds_by_their_category(
    make: Make, kinds: Cluster, namespace: str
) -> None:
    for of in (pool(POOL, "a-pool"), queue({}, "a-queue"), job({"task": TASK}, "a-job")):
        make(of)
    names = kinds.kubectl("-n", namespace, "get", "flopwise", "-o", "name").split()
    assert {
        *("gpupool.flopwise.dev/a-pool", "gpuqueue.flopwise.dev/a-queue"),
        "gpujob.flopwise.dev/a-job",
    } <= set(names)


def test_kubectl_explains_a_field(kinds: Cluster) -> None:
    told = kinds.kubectl("explain", "gpujob.spec.task.hours")
    assert "How long it runs as `replicas`, by accelerator" in told


def test_pools_and_queues_show_what_became_of_them(make: Make, kinds: Cluster) -> None:
    made = make(pool(POOL, "shown"))
    told = pool_status(made, Stock(nodes=2, gpus=16, free_gpus=3.5))
    kinds.api.patch(f"{path_of(made)}/status", {"status": told})
    row = kinds.kubectl("get", "gpool", "shown").splitlines()[1].split()
    assert row[:-1] == ["shown", "l4", "2", "16", "3.5", "True"]
    made = make(queue({"parent": "company"}, "shown"))
    told = queue_status(made, Sums(waiting=3, running=1, used={"l4": 12.5}))
    kinds.api.patch(f"{path_of(made)}/status", {"status": told})
    row = kinds.kubectl("get", "gqueue", "shown").splitlines()[1].split()
    assert row[:-1] == ["shown", "company", "3", "1", "True"]
