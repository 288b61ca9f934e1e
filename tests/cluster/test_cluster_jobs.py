"""``submit``, ``get``, ``status``, ``logs``, ``cancel`` and ``report`` on a real API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.api import Object, eventually
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import AddNodes
from tests.cluster.test_operator import (
    FLOPWISE,
    Operators,
    fleet,
    holds,
    of_pool,
    operators,
    plain,
    task,
)
from tests.flopwise.command import Command, Ended, on_its_own

__all__ = ["fleet", "operators"]  # fixtures
pytestmark = pytest.mark.cluster


def file_of(folder: Path, name: str, spec: Object, **metadata: str) -> Path:
    made = folder / f"{name}.json"
    raw = {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }
    made.write_text(json.dumps(raw))
    return made


def exists(cluster: Cluster, namespace: str, name: str) -> bool:
    return cluster.api.exists(f"{FLOPWISE}/namespaces/{namespace}/gpujobs/{name}")


def test_a_job_is_applied_once_nobody_only_asks(
    kinds: Cluster, namespace: str, flopwise: Command, tmp_path: Path
) -> None:
    def submit(*more: str) -> Ended:
        at = ("--kubeconfig", kinds.kubeconfig, "submit", "-f", file, "-n", namespace)
        return flopwise(*at, *more)

    file = file_of(tmp_path, "train", task("research"))
    for dry, said in (("client", "(client dry run)"), ("server", "(server dry run)")):
        ended = submit("--dry-run", dry)
        assert (ended.code, ended.out) == (0, "train\n"), ended.err
        assert said in ended.err
        assert not exists(kinds, namespace, "train")
    assert submit().code == 0
    raw = kinds.api.get(f"{FLOPWISE}/namespaces/{namespace}/gpujobs/train")
    assert raw["spec"]["task"]["hours"] == {"h100-sxm5-80gb": 1}
    assert [each["manager"] for each in raw["metadata"]["managedFields"]] == ["flopwise"]
    assert submit().code == 0  # as often as one likes

    at = ("--kubeconfig", kinds.kubeconfig, "-n", namespace)
    for dry in ("client", "server"):
        ended = flopwise("cancel", "train", *at, "--dry-run", dry)
        assert ended.out == f"train cancelled ({dry} dry run)\n", ended.err
        assert exists(kinds, namespace, "train")
    assert flopwise("cancel", "--all", *at).out == "train cancelled\n"
    eventually(lambda: not exists(kinds, namespace, "train"), "it is gone")


def test_what_the_server_refuses_is_bad_input_and_what_is_not_there_not_found(
    kinds: Cluster, namespace: str, flopwise: Command, tmp_path: Path
) -> None:
    at = ("--kubeconfig", kinds.kubeconfig)
    launched = task("research")
    flopwise(*at, "submit", "-f", file_of(tmp_path, "train", launched), "-n", namespace)
    kinds.api.patch(
        f"{FLOPWISE}/namespaces/{namespace}/gpujobs/train/status",
        {"status": {"launched": {"kind": "Job", "name": "train", "attempt": 1}}},
    )
    other = file_of(tmp_path, "train", task("others"))
    ended = flopwise(*at, "submit", "-f", other, "-n", namespace)
    assert ended.code == 2
    assert "spec.queue" in ended.err
    elsewhere = file_of(tmp_path, "else", launched, namespace="elsewhere")
    ended = flopwise(*at, "submit", "-f", elsewhere, "-n", namespace)
    assert ended.code == 2
    assert f"metadata.namespace: found elsewhere, allowed: {namespace}" in ended.err
    for command in ("status", "logs", "cancel"):
        ended = flopwise(*at, command, "none", "-n", namespace)
        assert (ended.code, ended.lines) == (
            4,
            [f"flopwise: none: found no such GpuJob in namespace {namespace}"],
        )


def test_a_job_is_followed_from_the_command_line_to_its_bill(
    kinds: Cluster,
    namespace: str,
    nodes: AddNodes,
    operators: Operators,
    fleet: str,
    flopwise: Command,
    tmp_path: Path,
) -> None:
    def done(*arguments: object) -> Ended:
        ended = flopwise("--kubeconfig", kinds.kubeconfig, *arguments)
        assert ended.code == 0, ended.err
        return ended

    nodes("h100", 1, **of_pool(fleet))
    spec = task(fleet, run=plain(lasts="2s"))
    submit = ("submit", "-f", file_of(tmp_path, "short", spec), "-n", namespace)
    ended = on_its_own("--kubeconfig", kinds.kubeconfig, *submit)
    assert (ended.code, ended.out) == (0, "short\n"), ended.err
    table = done("get", "jobs", "-n", namespace).out.splitlines()
    assert table[0].split() == [
        *("NAME", "STATE", "QUEUE", "POOL", "GPUS", "START", "END", "COST", "USD", "REASON")
    ]
    assert table[1].split()[:3] == ["short", "Waiting", fleet]
    operators.start()
    eventually(lambda: holds(kinds, namespace, "short", "Succeeded"), "it ends", 60)
    (row,) = json.loads(done("status", "short", "-n", namespace, "-o", "json").out)
    assert (row["state"], row["pool"], row["gpus"]) == ("Succeeded", fleet, 8)
    everywhere = done("get", "-A").out
    assert everywhere.startswith("NAMESPACE")
    assert namespace in everywhere

    bill = json.loads(done("report", "json").out)
    (line,) = (each for each in bill["lines"] if each["pool"] == fleet)
    # $2 for each of 8 GPUs an hour.
    assert line["costUsd"] == pytest.approx(16.0 * line["gpuHours"] / 8, abs=1e-5)
    assert line["gpuHours"] > 0
    assert row["costUsd"] == pytest.approx(line["costUsd"], abs=1e-5)
    assert done("cancel", "--all", "-n", namespace).err.startswith("nothing to cancel")
