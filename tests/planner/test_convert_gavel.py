"""Gavel's matrix, tables and traces into manifests."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.convert.gavel import JOB_TYPE, SPOT_USD_PER_GPU_HOUR, WEIGHT, contest, jobs, pools
from planner.manifests.errors import ManifestErrors
from planner.manifests.read import read
from planner.manifests.schema import Checkpoint, GpuJob
from planner.manifests.write import dump

GAVEL = Path(__file__).parents[3] / "shared" / "data" / "gavel"
START = datetime(2026, 12, 1, tzinfo=UTC)
V100, P100, K80 = "v100-sxm2-16gb", "p100-pcie-16gb", "k80"

MATRIX = {
    "v100": {
        "('LM (batch size 5)', 1)": {"null": 10.0, "('A3C', 1)": [4.0, 5.0]},
        "('LM (batch size 5)', 2)": {"null": 20.0},
        "('A3C', 1)": {"null": 2.0},
    },
    "p100": {
        "('LM (batch size 5)', 1)": {"null": 4.0},
        "('LM (batch size 5)', 2)": {"null": 5.0},
        "('A3C', 1)": {"null": 0.0},
    },
    "k80": {
        "('LM (batch size 5)', 1)": {"null": 1.0},
        "('LM (batch size 5)', 2)": {"null": 0.0},
        "('A3C', 1)": {"null": 0.0},
    },
    "v100_unconsolidated": {"('LM (batch size 5)', 2)": {"null": 15.0}},
}
TABLE = """job,model,gpus,total_steps
small,LM (batch size 5),1,36000
wide,LM (batch size 5),2,72000
rare,A3C,1,7200
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small matrix."""
    (tmp_path / "simulation_throughputs.json").write_text(json.dumps(MATRIX), encoding="utf-8")
    return tmp_path


def written(folder: Path, text: str, name: str = "jobs.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def trace(*rows: tuple[object, ...]) -> str:
    """Rows of (model, total steps, GPUs, weight, SLO, arrival)."""
    lines = (
        [model, "python3 main.py", "here", "-n", 1, steps, gpus, weight, slo, arrival]
        for model, steps, gpus, weight, slo, arrival in rows
    )
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


def errors(*files: Path) -> list[str]:
    with pytest.raises(ManifestErrors) as raised:
        jobs(files, start=START)
    return list(raised.value.errors)


def hours(job: GpuJob) -> dict[str, float]:
    assert job.spec.task is not None
    return job.spec.task.hours


def test_hours_are_steps_over_the_rate_alone_and_a_rate_of_zero_is_left_out(folder: Path) -> None:
    small, wide, rare = jobs([written(folder, TABLE)], start=START)
    # 36000 steps / 10 per second / 3600 = 1 h; at 4: 2.5 h; at 1: 10 h.
    assert hours(small) == {V100: 1.0, P100: 2.5, K80: 10.0}
    # On two GPUs: 72000 / 20 / 3600 = 1 h; at 5: 4 h; no K80 runs it.
    assert hours(wide) == {V100: 1.0, P100: 4.0}
    assert hours(rare) == {V100: 1.0}


def test_a_gang_is_a_replica_a_gpu(folder: Path) -> None:
    wide = jobs([written(folder, TABLE)], start=START)[1]
    assert wide.spec.task is not None
    assert (wide.spec.task.replicas, wide.spec.task.gpus) == (2, 1)
    assert wide.metadata.name == "wide"
    assert wide.metadata.annotations[JOB_TYPE] == "LM (batch size 5)"


def test_a_job_of_a_table_starts_when_it_likes(folder: Path) -> None:
    assert {j.spec.earliest_start for j in jobs([written(folder, TABLE)], start=START)} == {None}


def test_a_job_stays_on_one_type_or_changes_it_after_a_round_for_nothing(folder: Path) -> None:
    table = written(folder, TABLE)
    stays, changes = (jobs([table], start=START, switches=n)[0] for n in (0, 1))
    assert stays.spec.checkpoint == Checkpoint()
    assert changes.spec.checkpoint == Checkpoint(interval_seconds=360, switches=1)
    assert hours(changes) == hours(stays)


def test_arrivals_of_a_trace_count_from_its_start(folder: Path) -> None:
    text = trace(("A3C", 7200, 1, 1, "-1.000000", 0), ("A3C", 3600, 1, 5, -1, "5400.5"))
    first, second = jobs([written(folder, text, "a.trace")], start=START)
    assert (first.metadata.name, second.metadata.name) == ("job-0000", "job-0001")
    assert first.spec.earliest_start == START
    assert second.spec.earliest_start == datetime(2026, 12, 1, 1, 30, 0, 500_000, tzinfo=UTC)
    assert hours(second) == {V100: 0.5}
    assert WEIGHT not in first.metadata.annotations
    assert second.metadata.annotations[WEIGHT] == "5"


def test_the_matrix_is_found_one_folder_above(folder: Path) -> None:
    (folder / "traces").mkdir()
    path = written(folder, trace(("A3C", 7200, 1, 1, -1, 0)), "traces/a.trace")
    assert len(jobs([path], start=START)) == 1


def test_the_matrix_may_lie_elsewhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("far"), TABLE)
    matrix = folder / "simulation_throughputs.json"
    assert len(jobs([path], throughputs=matrix, start=START)) == 3


def test_pools_are_nodes_of_one_gpu_on_spot_billed_by_gpu(tmp_path: Path) -> None:
    path = written(tmp_path, dump(pools(32)), "pools.yaml")
    assert read([path]).pools == pools(32)
    assert [pool.metadata.name for pool in pools(32)] == ["v100", "p100", "k80"]
    spec = pools(32)[0].spec
    assert (spec.accelerator, spec.gpus_per_node, spec.nodes) == (V100, 1, 32)
    assert spec.interruptions_per_hour == 0
    assert spec.price is not None
    assert (spec.price.purchase, spec.price.billing) == ("spot", "gpu")
    assert [p.spec.price.usd_per_gpu_hour for p in pools(1) if p.spec.price] == [0.74, 0.43, 0.135]


def test_all_that_is_wrong_with_a_table_is_told_at_once(folder: Path) -> None:
    path = written(
        folder,
        "job,model,gpus,total_steps\n"
        "Upper,A3C,0,7200\n"
        "b,A3C,1\n"
        "c,A3C,8,7200\n"
        "d,GPT-9,1,-5\n"
        "e,GPT-9,1,5\n",
    )
    found = [line.removeprefix(f"{path}: ") for line in errors(path)]
    assert found == [
        "line 2: job: found \"Upper\", allowed: lower-case letters, digits and '-', at most 63",
        'line 2: gpus: found "0", allowed: a whole number above 0',
        "line 3: found 3 fields, allowed: 4",
        'line 4: model: found "A3C" on 8 GPUs, which no type runs as the matrix has it',
        'line 5: total_steps: found "-5", allowed: a whole number above 0',
        'line 6: model: found "GPT-9" on 1 GPUs, which no type runs as the matrix has it',
    ]


def test_a_deadline_of_a_trace_is_refused_and_not_dropped(folder: Path) -> None:
    (line,) = errors(written(folder, trace(("A3C", 7200, 1, 1, 1.2, 0)), "a.trace"))
    assert 'line 1: SLO: found "1.2", allowed: a number below 0, which is none' in line


def test_a_name_taken_twice_names_both_lines(folder: Path) -> None:
    path = written(folder, f"{TABLE}small,A3C,1,7200\n")
    assert errors(path) == [f'{path}: line 5: job: found "small", which is taken by {path}: line 2']


def test_a_file_of_another_kind_is_refused(folder: Path) -> None:
    (line,) = errors(written(folder, "a,b,c\n"))
    assert "found neither, allowed: a table headed job,model,gpus,total_steps" in line


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"v100": {}}',
        json.dumps(MATRIX | {"k80": {"LM": {"null": 1}}}),
        json.dumps(MATRIX | {"k80": {"('LM', 1)": {"null": "fast"}}}),
        json.dumps(MATRIX | {"k80": {"('LM', 1)": {"null": -1}}}),
        json.dumps(MATRIX | {"k80": {"('LM', 1)": {"null": math.inf}}}),
    ],
    ids=["no JSON", "a list", "a type missing", "another key", "text", "negative", "infinite"],
)
def test_what_is_no_matrix_is_refused(text: str, folder: Path) -> None:
    matrix = written(folder, text, "simulation_throughputs.json")
    (line,) = errors(written(folder, TABLE))
    assert line.startswith(f"{matrix}: not Gavel's matrix")


def test_a_missing_matrix_is_named(tmp_path: Path) -> None:
    (line,) = errors(written(tmp_path, TABLE))
    assert line.endswith("simulation_throughputs.json: No such file or directory")


@pytest.mark.skipif(not GAVEL.is_dir(), reason="the published data is not there: ../shared/data")
def test_the_700_published_jobs_cost_what_they_should() -> None:
    published = jobs([GAVEL / "jobs_700.csv"], start=START)
    usd = dict(zip((V100, P100, K80), SPOT_USD_PER_GPU_HOUR.values(), strict=True))
    costs = [
        {gpu: usd[gpu] * job.spec.task.replicas * h for gpu, h in hours(job).items()}
        for job in published
        if job.spec.task
    ]
    assert len(costs) == 700
    # All on V100, and each where it costs least: the figures published with the jobs.
    assert round(sum(cost[V100] for cost in costs), 2) == 14591.05
    assert round(sum(min(cost.values()) for cost in costs), 2) == 9926.37


@pytest.mark.skipif(not GAVEL.is_dir(), reason="the published data is not there: ../shared/data")
def test_the_published_traces_are_read() -> None:
    traces = sorted((GAVEL / "traces").glob("*.trace"))
    published = jobs(traces, start=START)
    assert len(published) == sum(len(t.read_text(encoding="utf-8").splitlines()) for t in traces)
    assert len({job.metadata.name for job in published}) == len(published)


def test_a_contest_has_the_rates_alone_and_co_located(tmp_path: Path) -> None:
    one, two = "('A', 1)", "('B', 1)"
    large = "('B', 2)"
    matrix = {
        "v100": {
            one: {"null": 4.0, one: [3.0, 3.0], two: [2.0, 1.5]},
            two: {"null": 2.0, one: [1.5, 2.0]},
            large: {"null": 3.5, one: [9.0, 9.0]},
        },
        "k80": {one: {"null": 1.0}},
    }
    (tmp_path / "m.json").write_text(json.dumps(matrix))
    (tmp_path / "jobs.csv").write_text("job,model,gpus,total_steps\nx,A,1,10\ny,B,2,10\n")
    asked = contest([tmp_path / "jobs.csv"], tmp_path / "m.json", {"v100": 3, "k80": 2})
    assert asked.types == ("v100", "k80")
    assert asked.gpus == (3, 2)
    assert [(c.job, asked.rates.kinds[c.kind]) for c in asked.claims] == [("x", one), ("y", large)]
    assert asked.rates.gpus == (1, 1, 2)
    assert asked.rates.alone.tolist() == [[4, 1], [2, 0], [3.5, 0]]
    assert asked.rates.beside is not None
    assert asked.rates.beside[0].tolist() == [[3, 2, 0], [1.5, 0, 0], [0, 0, 0]]
    assert not asked.rates.beside[1].any()


@pytest.mark.parametrize(
    ("matrix", "table", "said"),
    [
        ('{"v100": {"(\'A\', 1)": {"null": 1.0}}}', "x,B,1,10", 'model: found "B" on 1 GPUs'),
        ('{"v100": {"A": {"null": 1.0}}}', "x,A,1,10", "not Gavel's matrix of v100"),
        ('{"v100": {"(\'A\', 1)": {"(\'A\', 1)": []}}}', "x,A,1,10", "not Gavel's matrix of v100"),
        ('{"k80": {}}', "x,A,1,10", "not Gavel's matrix of v100"),
        ('{"v100": {"(\'A\', 1)": {"null": 1.0}}}', "x,A,0,10", 'gpus: found "0"'),
    ],
)
def test_a_contest_of_other_files_says_what_is_wrong(
    tmp_path: Path, matrix: str, table: str, said: str
) -> None:
    (tmp_path / "m.json").write_text(matrix)
    (tmp_path / "jobs.csv").write_text(f"job,model,gpus,total_steps\n{table}\n")
    with pytest.raises(ManifestErrors, match=re.escape(said)):
        contest([tmp_path / "jobs.csv"], tmp_path / "m.json", {"v100": 1})
