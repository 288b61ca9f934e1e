"""Whose a process is, by what kernels and runtimes write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.cgroups import Cgroup, Origin, cgroup_of, origin, ray_job_of

UID = "1f0c61a2-7ca1-4b5e-9d0a-3c2f1e0d9b8a"
SPELT = UID.replace("-", "_")
ID = "0123456789abcdef" * 4
INNER = "fedcba9876543210" * 4
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SPELT}.slice"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"0::/kubepods/burstable/pod{UID}/{ID}", id="v2 cgroupfs"),
        pytest.param(f"0::/kubepods/pod{UID}/{ID}", id="guaranteed"),
        pytest.param(f"0::{SLICE}/cri-containerd-{ID}.scope", id="v2 systemd containerd"),
        pytest.param(f"0::{SLICE}/crio-{ID}.scope", id="v2 systemd cri-o"),
        pytest.param(f"0::{SLICE}/crio-{ID}.scope/container", id="cri-o below its scope"),
        pytest.param(f"0::{SLICE}/docker-{ID}.scope", id="v2 systemd docker"),
        pytest.param(
            f"0::/system.slice/containerd.service/kubepods-besteffort-pod{SPELT}.slice"
            f":cri-containerd:{ID}",
            id="containerd with the other driver",
        ),
        pytest.param(f"0::/kubelet{SLICE.replace('kubepods', 'kubelet-kubepods')}/{ID}", id="kind"),
        pytest.param(f"0::/../../pod{UID}/{ID}", id="seen from another cgroup namespace"),
        pytest.param(
            f"12:memory:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/kubepods/pod{UID}/{ID}",
            id="v1",
        ),
        pytest.param(f"3:cpu:/\n2:memory:/kubepods/burstable/pod{UID}/{ID}\n0::/", id="hybrid"),
        pytest.param(f"0::/kubepods/pod{UID}/{INNER}/docker/{ID}", id="docker within a pod"),
    ],
)
def test_the_pod_and_its_container_are_found(text: str) -> None:
    assert cgroup_of(text) == Cgroup(pod_uid=UID, container_id=ID)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Cgroup()),
        ("0::/", Cgroup()),
        ("0::/user.slice/user-1000.slice/session-3.scope", Cgroup()),
        ("0::/system.slice/podman.service", Cgroup()),
        (f"0::/docker/{ID}", Cgroup(container_id=ID)),
        (f"0::/machine.slice/libpod-{ID}.scope", Cgroup(container_id=ID)),
        (f"0::/kubepods/burstable/pod{UID}", Cgroup(pod_uid=UID)),
        # A static pod's UID is a hash of its manifest.
        (f"0::/kubepods/pod{ID[:32]}/{ID}", Cgroup(pod_uid=ID[:32], container_id=ID)),
        ("not a line of a cgroup file", Cgroup()),
    ],
)
def test_what_a_path_does_not_tell_is_empty(text: str, found: Cgroup) -> None:
    assert cgroup_of(text) == found


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ("", ""),
        ("PATH=/bin\0HOME=/", ""),
        ("RAY_JOB_ID=01000000", "01000000"),
        ("RAY_JOB_ID=01000000\0FLOPWISE_JOB=llama-sft", "llama-sft"),
        (
            'RAY_JOB_CONFIG_JSON_ENV_VAR={"metadata": {"job_submission_id": "raysubmit_7"}}',
            "raysubmit_7",
        ),
        ("RAY_JOB_CONFIG_JSON_ENV_VAR={\0RAY_JOB_ID=02000000", "02000000"),
        ("RAY_JOB_CONFIG_JSON_ENV_VAR=[]\0RAY_JOB_ID=02000000", "02000000"),
        ("NOT_RAY_JOB_ID=3\0RAY_JOB_ID", ""),
    ],
)
def test_a_ray_job_is_known_by_its_name_then_its_submission_then_its_number(
    environment: str, job: str
) -> None:
    assert ray_job_of(environment) == job


def test_a_process_is_read_below_the_given_root(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(f"0::/kubepods/pod{UID}/{ID}\n")
    (tmp_path / "42" / "environ").write_bytes(b"A=\xff\0RAY_JOB_ID=01000000\0")
    assert origin(42, tmp_path) == Origin(
        cgroup=Cgroup(pod_uid=UID, container_id=ID), ray_job="01000000"
    )


def test_of_a_process_that_has_gone_nothing_is_known(tmp_path: Path) -> None:
    assert origin(43, tmp_path) == Origin()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_process_of_this_kernel_says_its_job() -> None:
    environment = os.environ | {"FLOPWISE_JOB": "real-one"}
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs, with its own environment
        found = origin(process.pid)
        process.communicate(b"\n")
    assert found.ray_job == "real-one"
