"""Job and pool to modes: the numbers by hand, and why a pool cannot be used."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from cost_models.accelerators import resolve_accelerator
from cost_models.calibration import Calibration, Measurement, Subject
from planner.manifests.errors import ManifestErrors
from planner.manifests.read import read
from planner.problem import Amounts, Demand, Interruption, Job, Mode, Work, hours_of
from planner.question import Built, Horizon, build

NOW = datetime(2026, 11, 25, 10, 40, tzinfo=UTC)
GIB = 2**30
H100 = "h100-sxm5-80gb"
Fields = dict[str, object]

ON_DEMAND: Fields = {"purchase": "on_demand", "usdPerGpuHour": 2.0, "billing": "gpu"}
POOL: Fields = {"accelerator": H100, "gpusPerNode": 8, "nodes": 4, "price": ON_DEMAND}
TASK: Fields = {"gpus": 8, "hours": {H100: 4.0}}


def document(kind: str, name: str, spec: Fields, **metadata: object) -> Fields:
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def built(folder: Path, *documents: Fields, horizon: Horizon | None = None) -> Built:
    path = folder / "all.yaml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return build(read([path]), horizon or Horizon(), NOW)


def job_of(folder: Path, spec: Fields, **pools: Fields) -> Job:
    """The job that ``spec`` states, with its modes on ``pools`` (by default one pool of H100)."""
    documents = [document("GpuPool", name, p) for name, p in (pools or {"p": POOL}).items()]
    made = built(folder, *documents, document("GpuJob", "j", spec))
    return made.problem.job_by_name["j"]


def only_mode(folder: Path, spec: Fields, pool: Fields | None = None) -> Mode:
    (mode,) = job_of(folder, spec, p=pool or POOL).modes
    return mode


def excluded(folder: Path, spec: Fields, **pools: Fields) -> list[tuple[str, str, str]]:
    """(pool, reason, message) of the pools that the job cannot use."""
    return [(e.pool, e.reason, e.message) for e in job_of(folder, spec, **pools).excluded]


# -- tasks ---------------------------------------------------------------------------------------


def test_a_task_takes_its_stated_hours_and_the_list_price(tmp_path: Path) -> None:
    # 4 h x 8 GPUs x $2 = $64
    job = job_of(tmp_path, {"task": TASK})
    (mode,) = job.modes
    assert hours_of(job, mode) == 4.0
    assert mode.usd_per_replica_hour * hours_of(job, mode) == pytest.approx(64.0)
    assert (mode.replicas, mode.amounts) == (1, Amounts(gpu_milli=8000))


def test_a_gang_of_a_task_does_its_hours_together(tmp_path: Path) -> None:
    task = {**TASK, "replicas": 3, "gpus": 2, "cpus": 1.5, "memoryGib": 10, "gpuMemoryGib": 40}
    wide = {**POOL, "cpusPerNode": 96, "memoryGibPerNode": 1024}
    job = job_of(tmp_path, {"task": task}, p=wide)
    (mode,) = job.modes
    assert hours_of(job, mode) == pytest.approx(4.0)
    assert mode.work_per_replica_hour == pytest.approx(1 / 12)
    assert (mode.replicas, mode.gpus, mode.usd_per_replica_hour) == (3, 6, 4.0)
    assert mode.amounts == Amounts(
        gpu_milli=2000, cpu_milli=1500, memory_bytes=10 * GIB, gpu_memory_bytes=40 * GIB
    )


def test_an_elastic_task_doubles_up_to_its_most_and_loses_a_tenth_each_time(
    tmp_path: Path,
) -> None:
    # 2 replicas take 8 h. 4 do 2 x 0.9 of it in an hour: 8 / 1.8 h. 8 do 4 x 0.81: 8 / 3.24 h.
    task = {
        "replicas": 2,
        "maxReplicas": 8,
        "doublingEfficiency": 0.9,
        "gpus": 2,
        "hours": {H100: 8.0},
    }
    job = job_of(tmp_path, {"task": task})
    assert [(m.replicas, m.gpus) for m in job.modes] == [(2, 4), (4, 8), (8, 16)]
    hours = [hours_of(job, m) for m in job.modes]
    assert hours == pytest.approx([8.0, 8 / 1.8, 8 / 3.24])


def test_the_most_replicas_of_an_elastic_task_need_be_no_doubling(tmp_path: Path) -> None:
    # 3 times the replicas are log2 3 doublings: 4 h / 3 / 0.9^1.585.
    task = {"maxReplicas": 3, "doublingEfficiency": 0.9, "hours": {H100: 4.0}}
    job = job_of(tmp_path, {"task": task})
    assert [m.replicas for m in job.modes] == [1, 2, 3]
    assert hours_of(job, job.modes[2]) == pytest.approx(4.0 / 3 / 0.9**1.5849625)


def test_mode_changes_at_a_checkpoint_are_carried(tmp_path: Path) -> None:
    spec = {"task": TASK, "checkpoint": {"intervalSeconds": 1800, "switches": 1}}
    assert job_of(tmp_path, spec).switches == 1


def test_a_pool_that_states_no_cpus_or_memory_limits_none(tmp_path: Path) -> None:
    task = {**TASK, "cpus": 500, "memoryGib": 9000}
    assert only_mode(tmp_path, {"task": task}).amounts == Amounts(gpu_milli=8000)


def test_an_alias_names_the_same_accelerator(tmp_path: Path) -> None:
    assert only_mode(tmp_path, {"task": {**TASK, "hours": {"h100": 4.0}}}).gpus == 8


def test_together_and_spread_are_carried(tmp_path: Path) -> None:
    host = "kubernetes.io/hostname"
    wanted = {"together": {"level": host, "required": True}, "spread": {"level": host}}
    mode = only_mode(tmp_path, {"task": TASK, "placement": wanted})
    assert (mode.together, mode.together_required, mode.spread) == (host, True, host)


# -- money and power -----------------------------------------------------------------------------


def test_owned_hardware_costs_its_energy_and_shows_its_annuity(tmp_path: Path) -> None:
    # A task draws 70 % of the power range; 8 GPUs, PUE 1.25, $0.08 a kWh.
    # $280,000 a node less 10 % over 5 years of 8,760 h: $252,000 / 43,800 h = $5.7534 an hour.
    accelerator = resolve_accelerator(H100)
    idle, most, host = accelerator.idle_watts, accelerator.tdp_watts, accelerator.host_watts
    owned: Fields = {
        "accelerator": H100,
        "gpusPerNode": 8,
        "nodes": 4,
        "owned": {"capexUsdPerNode": 280_000.0, "lifeYears": 5.0, "salvageFraction": 0.1},
        "power": {"usdPerKwh": 0.08, "pue": 1.25},
    }
    mode = only_mode(tmp_path, {"task": TASK}, owned)
    gpu_watts = idle + 0.7 * (most - idle)
    assert mode.watts_per_replica > 8 * gpu_watts * 1.25  # with the host's share above
    assert mode.watts_per_replica < 8 * (gpu_watts + host) * 1.25
    assert mode.usd_per_replica_hour == pytest.approx(mode.watts_per_replica / 1000 * 0.08)
    annuity = mode.full_usd_per_replica_hour - mode.usd_per_replica_hour
    assert annuity == pytest.approx(252_000 / (5 * 8760), rel=1e-3)


def test_reserved_hardware_is_sunk_and_its_energy_is_the_providers(tmp_path: Path) -> None:
    reserved = {
        **POOL,
        "price": {"purchase": "reserved", "usdPerGpuHour": 1.5},
        "power": {"usdPerKwh": 0.08},
    }
    mode = only_mode(tmp_path, {"task": TASK}, reserved)
    assert (mode.usd_per_replica_hour, mode.full_usd_per_replica_hour) == (0.0, 12.0)


# -- interruptions -------------------------------------------------------------------------------

SPOT: Fields = {
    **POOL,
    "price": {"purchase": "spot", "usdPerGpuHour": 1.0, "billing": "gpu"},
    "interruptionsPerHour": 0.1,
    "startupSeconds": 0,
}


def test_interruptions_lengthen_a_job_by_the_work_they_throw_away(tmp_path: Path) -> None:
    # Stretches of 1 h at a mean of 10 h between interruptions: each hour takes
    # 10 (exp(0.1) - 1) = 1.0517 h, so 4 h take 4.2068 h (Daly 2006, eq. 20).
    spec: Fields = {"task": TASK, "checkpoint": {"intervalSeconds": 3600}}
    job = job_of(tmp_path, spec, p=SPOT)
    assert hours_of(job, job.modes[0]) == pytest.approx(40 * math.expm1(0.1))
    # A gang of two is interrupted twice as often: 4 x 5 (exp(0.2) - 1).
    gang = {**TASK, "replicas": 2}
    job = job_of(tmp_path, {**spec, "task": gang}, p=SPOT)
    assert hours_of(job, job.modes[0]) == pytest.approx(20 * math.expm1(0.2))


def test_a_job_that_never_saves_starts_over(tmp_path: Path) -> None:
    # One stretch of 4 h: 10 (exp(0.4) - 1) h; with 6 minutes to start again, times exp(0.01).
    job = job_of(tmp_path, {"task": TASK}, p=SPOT)
    assert hours_of(job, job.modes[0]) == pytest.approx(10 * math.expm1(0.4))
    spec: Fields = {"task": TASK, "checkpoint": {"restartSeconds": 300}}
    job = job_of(tmp_path, spec, p={**SPOT, "startupSeconds": 60})
    assert hours_of(job, job.modes[0]) == pytest.approx(math.exp(0.01) * 10 * math.expm1(0.4))
    assert job.interruption == Interruption(restart_seconds=300)


def test_a_job_that_could_never_end_has_no_mode(tmp_path: Path) -> None:
    long = {**TASK, "hours": {H100: 900.0}}
    said = "it would be interrupted too often ever to end"
    assert excluded(tmp_path, {"task": long}, p=SPOT) == [("p", "interruptions", said)]


@pytest.mark.parametrize("hours", [1e-320, 1e7, 1e30])
def test_what_nothing_interrupts_has_a_mode_however_short_or_long(
    tmp_path: Path, hours: float
) -> None:
    job = job_of(tmp_path, {"task": {**TASK, "hours": {H100: hours}}})
    (mode,) = job.modes
    assert hours_of(job, mode) == pytest.approx(max(hours, 1e-9))


def test_a_job_that_may_not_be_stopped_keeps_off_what_is_taken_away(tmp_path: Path) -> None:
    said = "its nodes can be taken away, and the job may not be stopped"
    job = job_of(tmp_path, {"task": TASK, "preemptible": False}, spot=SPOT, safe=POOL)
    assert [m.pool for m in job.modes] == ["safe"]
    assert [(e.pool, e.reason, e.message) for e in job.excluded] == [("spot", "preemptible", said)]


# -- where it may run ----------------------------------------------------------------------------


def at(jurisdiction: str) -> Fields:
    return {**POOL, "site": {"jurisdiction": jurisdiction}}


def test_a_member_state_is_in_the_eu_and_the_eu_is_no_member_state(tmp_path: Path) -> None:
    pools = {"de": at("DE"), "us": at("US"), "eu": at("EU"), "gb": at("GB"), "no-law": POOL}

    def allowed(*jurisdictions: str) -> list[str]:
        wanted = {"jurisdictions": list(jurisdictions)}
        job = job_of(tmp_path, {"task": TASK, "placement": wanted}, **pools)
        return [m.pool for m in job.modes]

    assert allowed("EU") == ["de", "eu"]
    assert allowed("DE") == ["de"]
    assert allowed("US", "GB") == ["us", "gb"]
    assert allowed() == list(pools)


def test_each_limit_of_placement_says_what_it_found(tmp_path: Path) -> None:
    pools = {"here": at("US"), "there": POOL}
    for wanted, said in (
        (
            {"jurisdictions": ["EU", "US"]},
            ("there", "jurisdiction", "its jurisdiction is not stated, allowed: EU, US"),
        ),
        ({"pools": ["here"]}, ("there", "pool", "not among the pools it names")),
    ):
        assert excluded(tmp_path, {"task": TASK, "placement": wanted}, **pools) == [said]
    other: Fields = {"task": TASK, "placement": {"accelerators": ["l4"]}}
    assert excluded(tmp_path, other, here=POOL) == [
        ("here", "accelerator", f"{H100} is not among those it names")
    ]


def test_a_task_says_where_it_has_no_hours_or_too_little_memory(tmp_path: Path) -> None:
    l4 = {**POOL, "accelerator": "l4"}
    assert excluded(tmp_path, {"task": TASK}, h=POOL, l=l4) == [
        ("l", "accelerator", "no hours are stated for l4")
    ]
    both = {**TASK, "gpuMemoryGib": 40, "hours": {H100: 4.0, "l4": 9.0}}
    assert excluded(tmp_path, {"task": both}, h=POOL, l=l4) == [
        ("l", "memory", "needs 40 GiB a GPU, has 22.5")
    ]


# -- training ------------------------------------------------------------------------------------

TRAINING: Fields = {
    "model": "llama-3.1-8b",
    "method": "Full",
    "tokens": 2.88e8,
    "gpus": 8,
    "throughput": {H100: 1000.0},
}


def test_measured_throughput_is_believed(tmp_path: Path) -> None:
    # 8 GPUs x 1,000 tokens a second x 3,600 s = 2.88e7 tokens an hour: 10 h.
    job = job_of(tmp_path, {"training": TRAINING})
    (mode,) = job.modes
    assert job.need == Work(amount=2.88e8, unit="tokens")
    assert hours_of(job, mode) == pytest.approx(10.0)
    assert (mode.replicas, mode.amounts.gpus) == (1, 8)


def test_a_measurement_scales_to_more_gpus_as_the_model_does(tmp_path: Path) -> None:
    # It was made on 8 GPUs; on 32 a GPU does that times what the model has there over 8.
    modelled = {**TRAINING, "maxGpus": 32, "throughput": {}}
    least, _, most = (
        m.work_per_replica_hour for m in job_of(tmp_path, {"training": modelled}).modes
    )
    job = job_of(tmp_path, {"training": {**TRAINING, "maxGpus": 32}})
    assert hours_of(job, job.modes[0]) == pytest.approx(10.0)
    assert hours_of(job, job.modes[2]) == pytest.approx(10.0 / 4 * least / most)
    assert most < least


def test_useful_flops_are_those_of_the_model_not_of_the_gpu(tmp_path: Path) -> None:
    # At least 6 FLOPs a parameter and token: 6 x 8e9; attention over 8,192 tokens adds to it.
    mode = only_mode(tmp_path, {"training": TRAINING})
    assert 6 * 7.5e9 < mode.flops_per_work < 1.5 * 6 * 8.1e9


def test_without_a_measurement_more_gpus_are_faster_but_not_more_than_their_number(
    tmp_path: Path,
) -> None:
    elastic = {**TRAINING, "maxGpus": 32, "throughput": {}}
    job = job_of(tmp_path, {"training": elastic})
    assert [m.gpus for m in job.modes] == [8, 16, 32]
    assert [m.replicas for m in job.modes] == [1, 2, 4]
    hours = [hours_of(job, m) for m in job.modes]
    for slow, fast in pairwise(hours):
        assert slow / 2 <= fast < slow
    assert all(m.layout for m in job.modes)


def test_the_most_gpus_of_an_elastic_job_need_be_no_doubling(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"training": {**TRAINING, "maxGpus": 24}})
    assert [m.gpus for m in job.modes] == [8, 16, 24]


def test_gpus_that_are_no_whole_nodes_are_no_layout(tmp_path: Path) -> None:
    said = "12 GPUs are no whole nodes of 8"
    found = excluded(tmp_path, {"training": {**TRAINING, "gpus": 12}}, p=POOL)
    assert found == [("p", "layout", said)]


def test_a_model_that_does_not_fit_says_so_unless_its_throughput_was_measured(
    tmp_path: Path,
) -> None:
    huge = {**TRAINING, "model": "llama-3.3-70b", "gpus": 1, "throughput": {}}
    ((_, reason, message),) = excluded(tmp_path, {"training": huge}, p=POOL)
    assert reason == "memory"
    assert "GiB" in message
    measured = {**huge, "throughput": {H100: 100.0}}
    assert only_mode(tmp_path, {"training": measured}).gpus == 1


def test_training_stated_in_flops_counts_each_of_them(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"training": {"flops": 1e21, "gpus": 8}})
    (mode,) = job.modes
    assert (job.need, mode.flops_per_work) == (Work(amount=1e21, unit="flops"), 1.0)
    # 8 GPUs below their dense peak of 989.4 TFLOP/s: above 1e21 / 8 / 989.4e12 = 35.09 h.
    assert hours_of(job, mode) > 35.09


# -- services ------------------------------------------------------------------------------------

INFERENCE: Fields = {
    "model": "llama-3.1-8b",
    "promptTokens": 512,
    "outputTokens": 128,
    "requestsPerSecond": 400.0,
}


def test_a_service_may_need_as_many_replicas_as_its_peak_takes(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"inference": {**INFERENCE, "minReplicas": 2}})
    (mode,) = job.modes
    assert isinstance(job.need, Demand)
    assert set(job.need.per_slot) == {400.0 * 3600}
    assert mode.replicas == max(2, math.ceil(400 * 3600 / mode.work_per_replica_hour))
    quiet = {**INFERENCE, "requestsPerSecond": 0.001, "minReplicas": 2}
    assert only_mode(tmp_path, {"inference": quiet}).replicas == 2


def test_interruptions_take_from_a_service_the_time_to_start_again(tmp_path: Path) -> None:
    # 0.1 an hour x (300 + 60 s) = 36 s of an hour: 1 %.
    steady = only_mode(tmp_path, {"inference": INFERENCE})
    spec: Fields = {"inference": INFERENCE, "checkpoint": {"restartSeconds": 60}}
    shaky = only_mode(tmp_path, spec, {**SPOT, "startupSeconds": 300})
    part = shaky.work_per_replica_hour / steady.work_per_replica_hour
    assert part == pytest.approx(0.99)


def test_an_objective_that_no_gpu_meets_is_told_apart_from_memory(tmp_path: Path) -> None:
    instant = {**INFERENCE, "objective": {"ttftMs": 0.001, "tpotMs": 0.001}}
    ((_, reason, _),) = excluded(tmp_path, {"inference": instant}, p=POOL)
    assert reason == "objective"
    l4 = {**POOL, "accelerator": "l4", "gpusPerNode": 1}
    big = {**INFERENCE, "model": "llama-3.3-70b", "precision": "bf16"}
    ((_, reason, _),) = excluded(tmp_path, {"inference": big}, p=l4)
    assert reason == "memory"


# -- times and names -----------------------------------------------------------------------------


def test_times_are_those_of_their_zone_and_round_towards_less(tmp_path: Path) -> None:
    # The grid starts 2026-12-01T00:00Z, slots of 1 h. Earliest start 03:30+02:00 = 01:30Z: slot 2.
    # Deadline 11:45-01:00 = 12:45Z: slot 12. Due 08:15Z: slot 8.
    start = datetime(2026, 12, 1, tzinfo=UTC)
    spec: Fields = {
        "task": TASK,
        "earliestStart": "2026-12-01T03:30:00+02:00",
        "deadline": "2026-12-01T11:45:00-01:00",
        "due": "2026-12-01T08:15:00Z",
    }
    horizon = Horizon(start=start, length=timedelta(hours=24), slot=timedelta(hours=1))
    documents = (document("GpuPool", "p", POOL), document("GpuJob", "j", spec))
    (job,) = built(tmp_path, *documents, horizon=horizon).problem.jobs
    assert (job.release, job.deadline, job.due) == (2, 12, 8)


def test_twins_of_two_namespaces_are_told_apart_and_waited_for_in_their_own(
    tmp_path: Path,
) -> None:
    jobs = [
        document("GpuJob", "prepare", {"task": TASK}, namespace="a"),
        document("GpuJob", "prepare", {"task": TASK}, namespace="b"),
        document("GpuJob", "train", {"task": TASK, "dependsOn": ["prepare"]}, namespace="b"),
    ]
    made = built(tmp_path, document("GpuPool", "p", POOL), *jobs).problem
    assert [j.name for j in made.jobs] == ["a/prepare", "b/prepare", "train"]
    assert made.job_by_name["train"].after == ("b/prepare",)


def test_the_team_is_the_label_or_else_the_queue(tmp_path: Path) -> None:
    labels = {"flopwise.dev/team": "nlp", "flopwise.dev/project": "bot"}
    spec: Fields = {"task": TASK, "queue": "research"}
    documents = [
        document("GpuPool", "p", POOL),
        document("GpuQueue", "research", {}),
        document("GpuJob", "x", spec, labels=labels),
        document("GpuJob", "y", spec),
    ]
    made = built(tmp_path, *documents).problem
    told = [(j.team, j.project) for j in made.jobs]
    assert told == [("nlp", "bot"), ("research", "")]


# -- less than a GPU -----------------------------------------------------------------------------


def test_a_share_of_a_gpu_runs_the_hours_stated_and_pays_its_part(tmp_path: Path) -> None:
    # A quarter of a GPU for 4 h: a quarter of $2 an hour.
    task = {"gpuFraction": 0.25, "gpuMemoryGib": 20, "hours": {H100: 4.0}}
    job = job_of(tmp_path, {"task": task})
    (mode,) = job.modes
    assert mode.amounts == Amounts(gpu_milli=250, gpu_memory_bytes=20 * GIB)
    assert hours_of(job, mode) == pytest.approx(4.0)
    assert mode.usd_per_replica_hour == 0.5


def test_a_mig_instance_pays_for_its_slices_of_the_geometry_that_has_most(tmp_path: Path) -> None:
    # 3g.40gb of [3g, 3g]: half of the device.
    sliced = POOL | {"migGeometries": [["3g.40gb", "3g.40gb"], ["1g.10gb", "1g.10gb"]]}
    job = job_of(tmp_path, {"task": {"migProfile": "3g.40gb", "hours": {H100: 2.0}}}, p=sliced)
    (mode,) = job.modes
    assert mode.amounts == Amounts(mig=(("3g.40gb", 1),))
    assert hours_of(job, mode) == pytest.approx(2.0)
    assert mode.usd_per_replica_hour == 1.0


@pytest.mark.parametrize(
    ("task", "reason", "message"),
    [
        ({"migProfile": "7g.80gb"}, "mig", "no geometry of it has an instance of 7g.80gb"),
        (
            {"migProfile": "3g.40gb", "gpuMemoryGib": 39},
            "memory",
            "needs 39 GiB an instance, has 37.3",
        ),
    ],
)
def test_a_pool_without_such_an_instance_is_excluded(
    tmp_path: Path, task: Fields, reason: str, message: str
) -> None:
    sliced = POOL | {"migGeometries": [["3g.40gb", "3g.40gb"]]}
    asked: Fields = {"task": {"hours": {H100: 2.0}, **task}}
    assert excluded(tmp_path, asked, p=sliced) == [("p", reason, message)]


# -- topology ------------------------------------------------------------------------------------


def test_nodes_lie_in_the_domains_that_their_pool_states(tmp_path: Path) -> None:
    # Six nodes, two a clique, four a block, one zone for all.
    levels = ["nvidia.com/gpu.clique", "block", "topology.kubernetes.io/zone"]
    pool = POOL | {
        "nodes": 6,
        "topologyLevels": levels,
        "topology": {"nodesPerDomain": [2, 4, 0]},
    }
    made = built(tmp_path, document("GpuPool", "p", pool), document("GpuJob", "j", {"task": TASK}))
    assert [n.topology for n in made.problem.nodes] == [
        (f"p-gpu.clique-{clique}", f"p-block-{block}", "p-zone-0")
        for clique, block in ((0, 0), (0, 0), (1, 0), (1, 0), (2, 1), (2, 1))
    ]


@pytest.mark.parametrize(
    "placement",
    [{"together": {"level": "rack", "required": True}}, {"spread": {"level": "rack"}}],
)
def test_a_pool_without_the_level_that_a_job_must_have_is_excluded(
    tmp_path: Path, placement: Fields
) -> None:
    racks = POOL | {"topologyLevels": ["rack"], "topology": {"nodesPerDomain": [2]}}
    documents = [
        document("GpuPool", "plain", POOL),
        document("GpuPool", "racks", racks),
        document("GpuJob", "j", {"task": TASK, "placement": placement}),
    ]
    (job,) = built(tmp_path, *documents).problem.jobs
    assert {m.pool for m in job.modes} == {"racks"}
    assert [(e.pool, e.reason) for e in job.excluded] == [("plain", "topology")]
    assert job.excluded[0].message == "where its nodes are at level rack is not stated"


# -- where users and data are ---------------------------------------------------------------------

VIRGINIA: Fields = POOL | {"site": {"provider": "aws", "region": "us-east-1"}}
FRANKFURT: Fields = POOL | {"site": {"provider": "aws", "region": "eu-central-1"}}
OREGON: Fields = POOL | {"site": {"provider": "aws", "region": "us-west-2"}}
OWN: Fields = POOL | {"site": {"kind": "onprem", "provider": "own", "region": "cellar"}}


def near(place: str, **wanted: float) -> Fields:
    return {"task": TASK, "placement": {"near": place, **wanted}}


def egress_usd(folder: Path, spec: Fields, **pools: Fields) -> dict[str, float]:
    return {m.pool: m.egress_usd for m in job_of(folder, spec, **pools).modes}


def test_a_pool_further_than_the_latency_allowed_is_excluded(tmp_path: Path) -> None:
    # Ashburn to Frankfurt: 6,549 km, at 199.86 km/ms there and back, times 1.4, and 2 ms: 93.8 ms.
    pools = {"here": VIRGINIA, "there": FRANKFURT}
    job = job_of(tmp_path, near("aws/us-east-1", maxLatencyMs=90), **pools)
    assert [m.pool for m in job.modes] == ["here"]
    assert [(e.pool, e.reason) for e in job.excluded] == [("there", "latency")]
    said = "about 94 ms from aws/us-east-1 and back, allowed: 90 ms"
    assert job.excluded[0].message == said
    assert excluded(tmp_path, near("aws/us-east-1", maxLatencyMs=95), **pools) == []


def test_a_pool_whose_place_is_not_stated_is_excluded_and_says_what_is_missing(
    tmp_path: Path,
) -> None:
    spec = near("us-east-1", maxLatencyMs=500)
    (found,) = excluded(tmp_path, spec, here=VIRGINIA, own=OWN)
    assert found[:2] == ("own", "latency")
    assert found[2] == (
        "how far it is from aws/us-east-1 is not known: "
        "site.latitude and site.longitude of own/cellar are not stated"
    )


def test_a_site_that_states_its_coordinates_is_measured_by_them(tmp_path: Path) -> None:
    paris = OWN | {"site": {"kind": "edge", "latitude": 48.86, "longitude": 2.35}}
    # Frankfurt to Paris: 479 km, 2 x 479 / 199.86 x 1.4 + 2 = 8.7 ms.
    pools = {"frankfurt": FRANKFURT, "paris": paris}
    assert excluded(tmp_path, near("frankfurt", maxLatencyMs=9), **pools) == []
    (far,) = excluded(tmp_path, near("frankfurt", maxLatencyMs=8), **pools)
    assert far == ("paris", "latency", "about 9 ms from aws/eu-central-1 and back, allowed: 8 ms")


def test_data_cost_what_their_provider_charges_for_the_way_to_each_pool(tmp_path: Path) -> None:
    # 1,000 GiB from AWS: to another of its regions at $0.02, out of it at $0.09, else nothing.
    pools = {"here": VIRGINIA, "there": FRANKFURT, "own": OWN}
    found = egress_usd(tmp_path, near("aws/us-east-1", dataGib=1000), **pools)
    assert found == pytest.approx({"here": 0.0, "there": 20.0, "own": 90.0})


def test_data_on_own_premises_leave_for_nothing_unless_a_price_is_stated(tmp_path: Path) -> None:
    spec = near("own", dataGib=1000)
    assert egress_usd(tmp_path, spec, own=OWN, aws=VIRGINIA) == {"own": 0.0, "aws": 0.0}
    site = {"kind": "onprem", "provider": "own", "region": "cellar", "egressUsdPerGib": 0.03}
    priced = OWN | {"site": site}
    found = egress_usd(tmp_path, spec, own=priced, aws=VIRGINIA)
    assert found == pytest.approx({"own": 0.0, "aws": 30.0})


def test_a_pool_a_region_and_a_region_of_a_provider_name_one_place(tmp_path: Path) -> None:
    pools = {"here": VIRGINIA, "there": FRANKFURT}
    for place in ("here", "us-east-1", "aws/us-east-1", "AWS/us-east-1"):
        found = egress_usd(tmp_path, near(place, dataGib=100), **pools)
        assert found == pytest.approx({"here": 0.0, "there": 2.0})


def test_pools_of_one_place_pass_data_to_each_other_for_nothing(tmp_path: Path) -> None:
    nameless = {"a": POOL, "b": POOL, "c": VIRGINIA, "d": VIRGINIA}
    found = egress_usd(tmp_path, near("c", dataGib=100), **nameless)
    assert found == pytest.approx({"a": 9.0, "b": 9.0, "c": 0.0, "d": 0.0})


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("atlantis", "found 'atlantis', which is no pool and no known region"),
        ("aws/us-east-9", "list places`, such as aws/us-east-2, aws/us-east-1"),
        ("us", "found 'us', which is several places; allowed: crusoe/us, lambda/us"),
    ],
)
def test_a_place_that_is_none_is_a_fault_that_names_those_there_are(
    tmp_path: Path, place: str, said: str
) -> None:
    with pytest.raises(ManifestErrors) as raised:
        job_of(tmp_path, near(place), p=VIRGINIA)
    (line,) = raised.value.errors
    assert "(GpuJob j): spec.placement.near: found" in line
    assert said in line


def test_data_whose_egress_has_no_price_are_a_fault(tmp_path: Path) -> None:
    rented = POOL | {"site": {"provider": "acme", "region": "x1"}}
    with pytest.raises(ManifestErrors) as raised:
        job_of(tmp_path, near("acme/x1", dataGib=5), a=rented, b=VIRGINIA)
    (line,) = raised.value.errors
    assert "spec.placement.dataGib: found no price of what leaves acme/x1, allowed: " in line
    assert "site.egressUsdPerGib of a pool there, or a place of aws, azure" in line
    assert egress_usd(tmp_path, near("acme/x1", dataGib=5), a=rented, b=rented) == {"a": 0, "b": 0}


# -- what is not planned -------------------------------------------------------------------------


def test_what_cannot_be_planned_is_named_with_its_field(tmp_path: Path) -> None:
    service = {"model": "llama-3.1-8b", "promptTokens": 9, "outputTokens": 9}
    service |= {"requestsPerSecond": 1.0}
    late = document("GpuJob", "j", {"inference": service, "due": "2026-12-01T00:00:00Z"})
    with pytest.raises(ManifestErrors) as raised:
        built(tmp_path, document("GpuPool", "p", POOL), late)
    (line,) = raised.value.errors
    assert "spec.due: not planned yet" in line


def test_a_pool_without_a_price_that_the_catalog_does_not_know_either_is_named(
    tmp_path: Path,
) -> None:
    unknown: Fields = {
        "accelerator": H100,
        "gpusPerNode": 8,
        "nodes": 1,
        "site": {"provider": "nobody", "region": "nowhere"},
    }
    documents = [document("GpuPool", "p", unknown), document("GpuJob", "j", {"task": TASK})]
    with pytest.raises(ManifestErrors) as raised:
        built(tmp_path, *documents)
    (line,) = raised.value.errors
    assert "spec.price: found none" in line
    assert f"no offer of {H100} (nobody nowhere on_demand)" in line


NO_RECLAIM = (
    "GpuQueue research: preemption.reclaim is LowerPriority: its guarantee puts no job before "
    "those of other queues; priority decides"
)


@pytest.mark.parametrize(
    ("reclaim", "guarantee", "notes"),
    [
        ("Any", "research", ()),
        (
            "LowerPriority",
            "",
            (NO_RECLAIM,),
        ),
    ],
)
def test_a_guarantee_covers_jobs_of_queues_that_reclaim(
    tmp_path: Path, reclaim: str, guarantee: str, notes: tuple[str, ...]
) -> None:
    research: Fields = {"guaranteed": {H100: 8}, "preemption": {"reclaim": reclaim}}
    documents = [
        document("GpuPool", "p", POOL),
        document("GpuQueue", "research", research),
        document("GpuJob", "j", {"task": TASK, "queue": "research"}),
    ]
    made = built(tmp_path, *documents)
    assert (made.problem.job_by_name["j"].guarantee, made.notes) == (guarantee, notes)


def faults(folder: Path, **queues: Fields) -> list[str]:
    """What is wrong with ``queues`` beside one pool of 32 H100 and a job."""
    documents = [document("GpuQueue", name, spec) for name, spec in queues.items()]
    with pytest.raises(ManifestErrors) as raised:
        built(
            folder,
            document("GpuPool", "p", POOL),
            *documents,
            document("GpuJob", "j", {"task": TASK}),
        )
    return [line.split("(GpuQueue ")[1] for line in raised.value.errors]


def test_a_queue_lends_no_more_than_it_is_guaranteed(tmp_path: Path) -> None:
    assert faults(tmp_path, a={"guaranteed": {H100: 4}, "lendable": {H100: 5}}) == [
        f"a): spec.lendable: found 5 {H100}, allowed: its guaranteed 4 at most"
    ]
    assert faults(tmp_path, a={"lendable": {H100: 1}}) == [
        f"a): spec.lendable: found 1 {H100}, allowed: its guaranteed 0 at most"
    ]


def test_a_guarantee_holds_those_of_the_queues_under_it(tmp_path: Path) -> None:
    # Under a: b, which states none and has c with 6 under it, and d with 4: 10 of a's 8.
    queues: dict[str, Fields] = {
        "a": {"guaranteed": {H100: 8}},
        "b": {"parent": "a"},
        "c": {"parent": "b", "guaranteed": {H100: 6}},
        "d": {"parent": "a", "guaranteed": {H100: 4}},
    }
    allowed = "the 10 that queues under it (b, d) are guaranteed, or more"
    assert faults(tmp_path, **queues) == [
        f"a): spec.guaranteed: found 8 {H100}, allowed: {allowed}"
    ]


def test_the_roots_are_guaranteed_no_more_than_the_fleet_has(tmp_path: Path) -> None:
    # 4 nodes of 8 GPUs; one root is guaranteed 8, the other by its child 25.
    queues: dict[str, Fields] = {
        "a": {"guaranteed": {H100: 8}},
        "b": {"weight": 2.0},
        "c": {"parent": "b", "guaranteed": {H100: 25}},
    }
    found = f"found 25 {H100}, 33 with the other roots"
    assert faults(tmp_path, **queues) == [
        f"b): spec.guaranteed: {found}, allowed: together the 32 of the fleet at most"
    ]


def test_more_queues_than_can_be_planned_that_lend_nothing_are_refused(tmp_path: Path) -> None:
    # Eight side by side: 2^8 - 1 sets of them to look at.
    keeper: Fields = {"guaranteed": {H100: 1}, "lendable": {H100: 0}}
    found = f"found 8 queues (q0 to q7) keep back {H100} that they do not lend"
    assert faults(tmp_path, **{f"q{n}": keeper for n in range(8)}) == [
        f"q0): spec.lendable: {found}, in more than 127 combinations, allowed: fewer"
    ]


def calibrated(folder: Path, spec: Fields, ratio: float, subject: Subject) -> Mode:
    """The job's mode on one pool of H100, with ``subject`` measured once at ``ratio``."""
    one = Measurement(
        subject=subject,
        job="before",
        time=NOW,
        gpus=8,
        unit="tokens",
        promised_per_gpu_second=1.0,
        measured_per_gpu_second=ratio,
    )
    path = folder / "all.yaml"
    documents = (document("GpuPool", "p", POOL), document("GpuJob", "j", spec))
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    (job,) = build(read([path]), Horizon(), NOW, Calibration((one,))).problem.jobs
    return job.modes[0]


LLAMA: Fields = {"model": "llama-3.1-8b", "tokens": 1e9, "gpus": 8}


def test_what_was_measured_corrects_what_the_model_promises(tmp_path: Path) -> None:
    # exp(log(0.5) x 0.87097) = 0.5468 of the work in an hour, at the same price of the hour.
    subject = Subject(model="llama-3.1-8b", accelerator=H100, precision="bf16", method="Full")
    plain = job_of(tmp_path, {"training": LLAMA}).modes[0]
    slower = calibrated(tmp_path, {"training": LLAMA}, 0.5, subject)
    assert slower.work_per_replica_hour == pytest.approx(
        plain.work_per_replica_hour * 0.5468, rel=1e-3
    )
    assert slower.usd_per_replica_hour == plain.usd_per_replica_hour
    assert slower.flops_per_work == plain.flops_per_work


def test_a_throughput_that_is_stated_is_not_corrected(tmp_path: Path) -> None:
    subject = Subject(model="llama-3.1-8b", accelerator=H100, precision="bf16", method="Full")
    stated: Fields = {"training": {**LLAMA, "throughput": {H100: 5000.0}}}
    mode = calibrated(tmp_path, stated, 0.5, subject)
    assert mode.work_per_replica_hour == pytest.approx(5000 * 3600 * 8)


def test_services_are_corrected_as_training_is(tmp_path: Path) -> None:
    serve: Fields = {
        "inference": {
            "model": "llama-3.1-8b",
            "promptTokens": 1000,
            "outputTokens": 200,
            "requestsPerSecond": 5.0,
        }
    }
    subject = Subject(model="llama-3.1-8b", accelerator=H100, precision="bf16", method="Serve")
    plain = job_of(tmp_path, serve).modes[0]
    faster = calibrated(tmp_path, serve, 2.0, subject)
    assert faster.work_per_replica_hour == pytest.approx(
        plain.work_per_replica_hour / 0.5468, rel=1e-3
    )
