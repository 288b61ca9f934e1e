"""Whose a process is: its pod and container by its cgroup, its Ray job by its environment.

The kernel tells both below ``/proc/PID``. Kubernetes writes the pod's UID and the container's id
into the cgroup's path, in one of two spellings, and each runtime puts its own name before the id:

    /kubepods/burstable/pod1234-.../CONTAINER                                       cgroupfs
    /kubepods.slice/.../kubepods-burstable-pod1234_....slice/cri-containerd-CONTAINER.scope  systemd

Pids are those of this process's namespace: to see other pods' processes, a pod needs ``hostPID``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
READ_BYTES_MOST = 2**20  # of one file: an environment may be long, and is another's
_POD = re.compile(r"pod([0-9a-f]{8}[-_]?(?:[0-9a-f]{4}[-_]?){3}[0-9a-f]{12})(?![0-9a-f])")
_MIRROR_POD = re.compile(r"pod([0-9a-f]{32})(?![0-9a-f])")  # of a node's own manifests: a hash
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?=/|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """The container that a process runs in; what its path does not tell is empty."""

    pod_uid: str = ""
    container_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a process comes from."""

    cgroup: Cgroup = Cgroup()
    ray_job: str = ""  # our name of it, else its submission id, else Ray's number


def origin(pid: int, proc: Path = PROC) -> Origin:
    """What is known of a process; nothing of one that has gone, or is not ours to read."""
    folder = proc / str(pid)
    return Origin(
        cgroup=cgroup_of(_read(folder / "cgroup")),
        ray_job=ray_job_of(_read(folder / "environ")),
    )


def cgroup_of(text: str) -> Cgroup:
    """What ``/proc/PID/cgroup`` says, of version 1 (a line a controller), 2, or both at once.

    >>> cgroup_of("0::/kubepods/besteffort/pod00000000-1111-2222-3333-444444444444/" + 64 * "a")
    Cgroup(pod_uid='00000000-1111-2222-3333-444444444444', container_id='aaaaaaaaaaaaaaaaaaaaaaaa\
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')
    """
    best = Cgroup()
    for line in text.splitlines():
        path = line.split(":", 2)[-1]
        found = Cgroup(pod_uid=_pod_uid(path), container_id=_container_id(path))
        if found.pod_uid and found.container_id:
            return found
        if _told(found) > _told(best):
            best = found
    return best


def ray_job_of(environment: str) -> str:
    """The Ray job of a process by its environment (``NAME=value``, separated by NUL).

    Ours are told their name. The driver of a submitted job has its submission id, and what Ray
    starts for it has Ray's number of the job.
    """
    values = dict(entry.partition("=")[::2] for entry in environment.split("\0") if "=" in entry)
    submission = _submission(values.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""))
    return values.get("FLOPWISE_JOB") or submission or values.get("RAY_JOB_ID", "")


def _submission(config: str) -> str:
    try:
        metadata = json.loads(config)["metadata"]
        return str(metadata["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return ""


def _pod_uid(path: str) -> str:
    found = _POD.search(path) or _MIRROR_POD.search(path)
    return found[1].replace("_", "-") if found else ""


def _container_id(path: str) -> str:
    """The innermost: a container may run others."""
    found = _CONTAINER.findall(path)
    return str(found[-1]) if found else ""


def _told(cgroup: Cgroup) -> int:
    return bool(cgroup.pod_uid) + bool(cgroup.container_id)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(READ_BYTES_MOST).decode(errors="replace")
    except OSError:
        return ""
