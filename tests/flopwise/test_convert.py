"""``flopwise convert`` as its user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flopwise.convert import convert
from planner.manifests.errors import ManifestErrors
from planner.manifests.read import read

KEY = "('A3C', 1)"
MATRIX = {gpu: {KEY: {"null": 2.0}} for gpu in ("v100", "p100", "k80")}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "simulation_throughputs.json").write_text(json.dumps(MATRIX), encoding="utf-8")
    path = tmp_path / "jobs.csv"
    path.write_text("job,model,gpus,total_steps\na,A3C,1,7200\n", encoding="utf-8")
    return path


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and standard error; `ManifestErrors` as main maps it."""
    app = typer.Typer()
    app.command()(convert)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, ManifestErrors):
        return 2, str(result.exception)
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_what_is_written_is_read_by_plan(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    code, said = run("gavel", table, "--out", out, "--nodes", 4)
    assert (code, said) == (0, f"wrote {out}/pools.yaml\nwrote {out}/jobs.jsonl\n")
    manifests = read([out])
    assert [job.metadata.name for job in manifests.jobs] == ["a"]
    assert {pool.spec.nodes for pool in manifests.pools} == {4}
    assert sorted(p.name for p in out.iterdir()) == ["jobs.jsonl", "pools.yaml"]


def test_how_often_a_job_may_change_its_type_is_asked_for(table: Path, tmp_path: Path) -> None:
    assert run("gavel", table, "--out", tmp_path / "out", "--switches", 2)[0] == 0
    assert [job.spec.checkpoint.switches for job in read([tmp_path / "out"]).jobs] == [2]


def test_it_overwrites_what_it_wrote(table: Path, tmp_path: Path) -> None:
    assert run("gavel", table, "--out", tmp_path / "out")[0] == 0
    assert run("gavel", table, "--out", tmp_path / "out", "--nodes", 2)[0] == 0
    assert {pool.spec.nodes for pool in read([tmp_path / "out"]).pools} == {2}


@pytest.mark.parametrize("name", ["pools.yaml", "jobs.jsonl"])
def test_it_overwrites_what_others_wrote_only_by_force(
    name: str, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine\n", encoding="utf-8")
    code, said = run("gavel", table, "--out", out)
    assert code == 2
    assert said == f"{out / name}: exists and was not written by convert; --force overwrites it"
    assert [p.name for p in out.iterdir()] == [name]
    assert run("gavel", table, "--out", out, "--force")[0] == 0
    assert len(read([out]).jobs) == 1


@pytest.mark.parametrize(("name", "why"), [("eva", "is not read yet"), ("galaxy", "is no format")])
def test_another_format_is_refused_by_name(
    name: str, why: str, table: Path, tmp_path: Path
) -> None:
    code, said = run(name, table, "--out", tmp_path / "out")
    assert code == 2
    assert said == f'convert: FORMAT: found "{name}", which {why}; allowed: gavel, openb'


def test_openb_takes_the_nodes_and_then_the_pods(tmp_path: Path) -> None:
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\nn,1,1,2,T4\n", encoding="utf-8")
    rows = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1,1,1,500\nb,1,1,0,0\n"
    pods.write_text(rows, encoding="utf-8")
    out = tmp_path / "out"
    code, said = run("openb", nodes, pods, "--out", out)
    assert (code, said.splitlines()[0]) == (0, "left out 1 pods that ask for no GPU")
    assert len(read([out]).jobs) == len(read([out]).pools) == 1
    code, said = run("openb", nodes, "--out", out)
    assert code == 2
    assert said == "convert: FILE: found 1 files, allowed: the list of nodes, then one of pods"


def test_a_start_that_is_no_time_is_refused(table: Path, tmp_path: Path) -> None:
    code, said = run("gavel", table, "--out", tmp_path / "out", "--start", "soon")
    assert code == 2
    assert said.startswith('convert: --start: found "soon", allowed: a time such as ')


def test_nothing_is_written_where_something_is_wrong(table: Path, tmp_path: Path) -> None:
    table.write_text("job,model,gpus,total_steps\na,A3C,0,7200\n", encoding="utf-8")
    assert run("gavel", table, "--out", tmp_path / "out")[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_an_error_of_its_path(table: Path) -> None:
    code, said = run("gavel", table, "--out", table / "out")
    assert (code, said) == (2, f"{table}/out/pools.yaml: Not a directory")
