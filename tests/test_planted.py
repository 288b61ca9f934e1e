"""The planted schedule of a generated instance is feasible, and its load is as asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.check import violations
from planner.manifests.read import read
from planner.problem import Job, Mode, Problem, Work, hours_of, replicas_for
from planner.question import Horizon, build
from tests.benchmarks.planted import HOURS, SPEED, START, Instance, Planted, generate, write
from tests.benchmarks.planted_plan import plan_of
from tests.benchmarks.scale import problem_of
from tests.benchmarks.tiles import SHAPES, Strip, tiles

HOURLY = Horizon(start=START, slot=timedelta(hours=1))
CASES = [
    (jobs, gpus, load, seed, real)
    for jobs, gpus, load, seed in ((100, 600, 0.6, 0), (300, 2000, 0.8, 1), (300, 2000, 0.95, 2))
    for real in (False, True)
]


@cache
def instance(jobs: int, gpus: int, load: float, seed: int, real: bool) -> Instance:
    return generate(jobs=jobs, gpus=gpus, load=load, seed=seed, real=real)


@pytest.fixture(params=CASES, ids=str)
def case(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Instance, Problem, dict[str, float]]:
    """An instance, what is read of its file, and the speed of its pools."""
    made = instance(*request.param)
    path = tmp_path / "fleet.jsonl"
    write(made, path)
    manifests = read([path])
    speeds = {p.metadata.name: float(p.metadata.annotations[SPEED]) for p in manifests.pools}
    return made, build(manifests, HOURLY, datetime.now(UTC)).problem, speeds


Case = tuple[Instance, Problem, dict[str, float]]


def planted_mode(problem: Problem, p: Planted) -> tuple[Job, Mode]:
    """The mode that a job is planted in: on the pool, with the fewest GPUs."""
    job = problem.job_by_name[p.job]
    return job, min((m for m in job.modes if m.pool == p.pool), key=lambda m: m.gpus)


def test_every_job_is_planted_once_inside_its_own_times(case: Case) -> None:
    made, problem, _ = case
    assert sorted(p.job for p in made.planted) == sorted(j.name for j in problem.jobs)
    for p in made.planted:
        job, mode = planted_mode(problem, p)
        assert job.release <= p.start < p.end <= min(job.deadline, HOURS)
        if isinstance(job.need, Work):
            assert mode.gpus == p.gpus
            assert hours_of(job, mode) == pytest.approx(p.end - p.start)
        else:
            most = max(replicas_for(job.need, mode, t) for t in range(HOURS))
            assert most * mode.amounts.gpus <= p.gpus


def test_the_planted_jobs_fit_the_gpus_that_are_there(case: Case) -> None:
    made, problem, _ = case
    for pool in problem.pools:
        held = np.zeros(HOURS, dtype=int)
        for p in made.planted:
            held[p.start : p.end] += p.gpus * (p.pool == pool.name)
        there = np.array([pool.nodes_at(t) * pool.gpus_per_node for t in range(HOURS)])
        assert (held <= there).all()


def test_the_planted_jobs_keep_a_tenth_below_every_queue_limit(case: Case) -> None:
    made, problem, _ = case
    for queue in problem.queues:
        for accelerator, most in queue.limit:
            held = np.zeros(HOURS, dtype=int)
            for p in made.planted:
                ours = queue.name in problem.queue_path(problem.job_by_name[p.job].queue)
                held[p.start : p.end] += p.gpus * (ours and p.pool == accelerator)
            assert 1.1 * held.max() <= most


def least_work(problem: Problem, job: Job, speeds: dict[str, float]) -> float:
    """The least GPUs x hours x speed of its modes."""
    if isinstance(job.need, Work):
        return min(m.gpus * hours_of(job, m) * speeds[m.pool] for m in job.modes)
    need = job.need
    return min(
        sum(replicas_for(need, m, t) for t in range(HOURS)) * m.amounts.gpus * speeds[m.pool]
        for m in job.modes
    )


def test_the_load_is_the_one_asked_for(case: Case, request: pytest.FixtureRequest) -> None:
    made, problem, speeds = case
    asked = request.node.callspec.params["case"][2]
    there = sum(
        speeds[p.name] * p.gpus_per_node * w.nodes * (w.end - w.start)
        for p in problem.pools
        for w in p.windows
    )
    load = sum(least_work(problem, job, speeds) for job in problem.jobs) / there
    assert load == pytest.approx(asked, rel=0.005)
    assert made.load == pytest.approx(load, rel=1e-4)


def test_no_mode_needs_less_work_than_the_planted_one(case: Case) -> None:
    made, problem, speeds = case
    for p in made.planted:
        job, mode = planted_mode(problem, p)
        if isinstance(job.need, Work):
            work = mode.gpus * hours_of(job, mode) * speeds[mode.pool]
            assert least_work(problem, job, speeds) == pytest.approx(work, rel=1e-4)


def test_jobs_have_some_fourteen_modes_and_three_in_ten_a_deadline() -> None:
    # 8 types less one on average, each at its replicas and at twice as many: 14.
    specs = specs_of(instance(1000, 6000, 0.8, 0, False))
    tasks = [spec["task"] for spec in specs]
    modes = [len(t["hours"]) * (2 if "maxReplicas" in t else 1) for t in tasks]
    assert 13 <= np.mean(modes) <= 14.5
    assert 0.25 <= np.mean(["deadline" in spec for spec in specs]) <= 0.35
    assert all(t["replicas"] & (t["replicas"] - 1) == 0 for t in tasks)


def test_a_real_instance_has_services_elastic_jobs_switches_windows_and_a_tree_of_queues() -> None:
    made = instance(1000, 6000, 0.8, 0, True)
    specs = specs_of(made)
    services = [spec for spec in specs if "inference" in spec]
    tasks = [spec for spec in specs if "task" in spec]
    assert len(services) == 50
    assert 0.15 <= np.mean(["maxReplicas" in spec["task"] for spec in tasks]) <= 0.25
    assert 0.15 <= np.mean(["checkpoint" in spec for spec in tasks]) <= 0.25
    for spec in services:
        rates = spec["inference"]["hourlyRequestsPerSecond"]
        assert min(rates) == pytest.approx(0.3 * max(rates), rel=0.01)
    kinds = [d["kind"] for d in made.documents]
    assert kinds.count("GpuQueue") == 1 + 4 + 16
    assert sum("availability" in str(d["spec"]) for d in made.documents) == 3


def specs_of(made: Instance) -> list[dict[str, Any]]:
    """The jobs' specs, as a reader of the file has them."""
    read_back = [json.loads(json.dumps(document)) for document in made.documents]
    return [document["spec"] for document in read_back if document["kind"] == "GpuJob"]


def test_the_same_arguments_give_the_same_instance_and_another_seed_another() -> None:
    again = generate(jobs=100, gpus=600, load=0.6, seed=0)
    assert again == instance(100, 600, 0.6, 0, False)
    assert again != generate(jobs=100, gpus=600, load=0.6, seed=1)


def test_too_few_or_too_many_jobs_for_a_load_and_more_than_all_of_it_are_refused() -> None:
    with pytest.raises(ValueError, match="10 jobs are too few"):
        generate(jobs=10, gpus=600, load=0.8, seed=0)
    with pytest.raises(ValueError, match=r"load: found 1\.5"):
        generate(jobs=100, gpus=600, load=1.5, seed=0)
    with pytest.raises(ValueError, match="90000 jobs are too many"):
        generate(jobs=90_000, gpus=600, load=0.8, seed=0)


def test_tiles_cover_a_strip_exactly_where_it_is_narrower_too() -> None:
    # 50 GPUs, from hour 10 to 18 only 40: each hour's tiles add up to that.
    strip = Strip(kind=0, pool_gpus=64, gpus=50, hours=40, first=10, end=18, gpus_between=40)
    made = tiles([strip], 200, seed=3)
    held = np.zeros(40, dtype=int)
    for tile in made:
        held[tile.start : tile.end] += tile.gpus
    assert len(made) == 200
    assert held.tolist() == [50] * 10 + [40] * 8 + [50] * 22
    assert max(tile.gpus for tile in made) <= SHAPES[0].part * 64


def test_the_planted_schedule_is_a_true_plan_down_to_the_gpu(tmp_path: Path) -> None:
    made = instance(300, 2000, 0.95, 2, False)
    write(made, tmp_path / "fleet.jsonl")
    problem = problem_of(tmp_path / "fleet.jsonl")
    assert violations(problem, plan_of(problem, made.planted)) == ()
