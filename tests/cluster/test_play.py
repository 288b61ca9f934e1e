"""``scripts/cluster``: up, in use, down, each said plainly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import build
from tests.cluster.build import Say
from tests.cluster.cluster import WIDE
from tests.cluster.conftest import can_be_built

ROOT = Path(__file__).parents[2]


def play(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.cluster.play", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def nodes_seen_with(config: Path) -> list[str]:
    kubectl = str(build.path_of("kubectl"))
    command = [kubectl, f"--kubeconfig={config}", "get", "nodes", "-o", "name"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return said.stdout.split()


@pytest.mark.cluster
def test_a_cluster_comes_up_is_used_and_goes_down(say: Say, tmp_path: Path) -> None:
    # Seven nodes of three accelerators: 3 + 2 + 2.
    with can_be_built():
        build.ensure(*WIDE, say=say)
    at = f"--at={tmp_path}"
    config = tmp_path / "kubeconfig"
    try:
        up = play("up", "wide", "--nodes=7", at)
        assert (up.returncode, up.stderr[-80:]) == (
            0,
            "a wide cluster with 7 GPU nodes; scripts/cluster down ends it\n",
        )
        assert up.stdout.startswith(f"export KUBECONFIG={config} PATH=")
        assert len(nodes_seen_with(config)) == 7
        again = play("up", "wide", at)
        assert again.returncode == 1
        assert again.stderr == "error: a cluster is up already: scripts/cluster down\n"
    finally:
        down = play("down", at)
    assert (down.returncode, down.stderr) == (0, "")
    assert not config.exists()
    assert play("down", at).stderr == "no cluster is up\n"
