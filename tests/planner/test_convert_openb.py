"""Alibaba's openb trace into manifests and into requests to place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.convert import openb
from planner.inventory import Request
from planner.manifests.errors import ManifestErrors
from planner.manifests.read import read
from planner.manifests.write import dump
from planner.problem import Amounts

DATA = Path(__file__).parents[3] / "shared" / "data" / "openb"
START = datetime(2026, 12, 1, tzinfo=UTC)

NODES = """sn,cpu_milli,memory_mib,gpu,model
n-0,64000,262144,2,P100
n-1,96000,393216,8,G2
n-2,64000,262144,2,P100
"""
HEAD = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,creation_time,deletion_time\n"
PODS = f"""{HEAD}share,6000,12288,1,460,V100M16|P100|P100,LS,3600,10800
whole,4000,1024,2,1000,,BE,0,1800
cpu,1000,1024,0,0,,LS,0,60
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def errors(folder: Path, text: str) -> list[str]:
    """Of a list of pods, without the folder."""
    with pytest.raises(ManifestErrors) as raised:
        openb.read_pods(written(folder, text))
    return [line.removeprefix(f"{folder}/") for line in raised.value.errors]


def test_nodes_of_one_kind_are_a_pool(tmp_path: Path) -> None:
    nodes = openb.read_nodes(written(tmp_path, NODES))
    pools = {p.metadata.name: p.spec for p in openb.pools(nodes)}
    assert list(pools) == ["p100-2x-64000m-262144", "g2-8x-96000m-393216"]
    first = pools["p100-2x-64000m-262144"]
    assert (first.accelerator, first.nodes, first.gpus_per_node) == ("p100-pcie-16gb", 2, 2)
    assert (first.cpus_per_node, first.memory_gib_per_node) == (64.0, 256.0)


def test_a_pod_that_asks_for_a_gpu_is_a_task_on_each_model_it_names(tmp_path: Path) -> None:
    share, whole = openb.jobs(openb.read_pods(written(tmp_path, PODS)), start=START)
    task = share.spec.task
    assert task is not None
    assert (task.gpus, task.gpu_fraction, task.cpus, task.memory_gib) == (1, 0.46, 6.0, 12.0)
    assert task.hours == {"p100-pcie-16gb": 2.0, "v100-sxm2-16gb": 2.0}  # 10,800 s less 3,600 s
    assert share.spec.earliest_start == datetime(2026, 12, 1, 1, tzinfo=UTC)
    assert whole.spec.task is not None
    assert (whole.spec.task.gpus, whole.spec.task.gpu_fraction) == (2, 0.0)
    assert len(whole.spec.task.hours) == len(openb.ACCELERATORS)


def test_manifests_that_are_written_are_read_back(tmp_path: Path) -> None:
    pods = openb.read_pods(written(tmp_path, PODS))
    made = openb.jobs(pods, start=START)
    file = tmp_path / "jobs.yaml"
    file.write_text(dump(made), encoding="utf-8")
    assert read([file]).jobs == made


def test_a_table_without_models_and_times_allows_any_and_takes_an_hour(tmp_path: Path) -> None:
    text = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1000,1024,1,1000\n"
    (job,) = openb.jobs(openb.read_pods(written(tmp_path, text)), start=START)
    assert job.spec.task is not None
    assert set(job.spec.task.hours.values()) == {1.0}
    assert job.spec.earliest_start == START


def test_an_inventory_has_the_nodes_and_a_request_what_the_pod_asks(tmp_path: Path) -> None:
    inventory = openb.inventory(openb.read_nodes(written(tmp_path, NODES)))
    assert inventory.names == ("n-0", "n-1", "n-2")
    assert inventory.gpu_milli.sum(axis=1).tolist() == [2000, 8000, 2000]
    share, _, cpu = map(openb.request, openb.read_pods(written(tmp_path, PODS)))
    amounts = Amounts(gpu_milli=460, cpu_milli=6000, memory_bytes=12288 * 2**20)
    assert share == Request(amounts=amounts, accelerators=("P100", "V100M16"))
    assert cpu.amounts.gpu_milli == 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,-1,0,1,500,,,0,0", 'cpu_milli: found "-1", allowed: a whole number from 0'),
        ("a,1,0,1,1001,,,0,0", 'gpu_milli: found "1001", allowed: a whole number from 0 to 1000'),
        ("a,1,0,2,500,,,0,0", "gpu_milli: found 500, allowed: 1000, whole GPUs, as num_gpu is 2"),
        ("a,1,0,1,0,,,0,0", "gpu_milli: found 0, allowed: 1 to 1000"),
        (
            "a,1,0,1,1,P100|,,0,0",
            "gpu_spec: found \"P100|\", allowed: GPU models joined by '|', or nothing",
        ),
        ("a,1,0", "num_gpu: found nothing, allowed: a whole number from 0 to 999"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_column(row: str, said: str, tmp_path: Path) -> None:
    assert errors(tmp_path, f"{HEAD}{row}\n") == [f"table.csv: line 2: {said}"]


def test_a_name_twice_a_missing_column_and_a_missing_file_are_named(tmp_path: Path) -> None:
    row = "a,1,0,1,500,,,0,0\n"
    assert errors(tmp_path, HEAD + row + row) == [
        'table.csv: line 3: name: found "a", which is taken by line 2'
    ]
    assert errors(tmp_path, "name,cpu_milli\n")[0].startswith(
        "table.csv: line 1: found no column memory_mib, num_gpu, gpu_milli, allowed: "
    )
    with pytest.raises(ManifestErrors, match="No such file"):
        openb.read_nodes(tmp_path / "none.csv")


def test_a_model_that_the_trace_does_not_have_is_no_manifest(tmp_path: Path) -> None:
    pods = openb.read_pods(written(tmp_path, f"{HEAD}a,1,0,1,500,H100,,0,0\n"))
    with pytest.raises(ManifestErrors, match='a: gpu_spec: found "H100", allowed: A10, G2, '):
        openb.jobs(pods, start=START)


@pytest.mark.skipif(not DATA.is_dir(), reason="the openb trace is not beside the repository")
def test_the_published_fleet_has_its_6212_gpus_and_the_trace_its_pods() -> None:
    inventory = openb.inventory(openb.read_nodes(DATA / "openb_node_list_gpu_node.csv"))
    assert (len(inventory.names), int(inventory.gpu_milli.sum())) == (1213, 6_212_000)
    pods = openb.read_pods(DATA / "openb_pod_list_default.csv")
    assert (len(pods), sum(p.gpus == 0 for p in pods)) == (8152, 1088)
