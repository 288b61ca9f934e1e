"""Pod templates: ours, the user's merged over it, and on top what the plan decides.

What a user states in ``run.podTemplate`` wins over our defaults, list entries by their name, as a
strategic merge does it. The nodes, the GPUs and our labels are the plan's: they are put on last.

A program is told before it is stopped, while all of it still works: a notice on its pods fills
`DRAIN_FILE`, which was empty. It then has ``checkpoint.saveSeconds`` to save, and says that it has
by making `SAVED_FILE`; whoever stops it waits as long. Pods that end are waited for once more, for
one that has been told and has not saved yet; then it gets SIGTERM, and `Settings.stop_seconds`
later it is killed. It is started again with the same checkpoint folder, and the number of the
attempt. (A suspended Ray cannot start a process, since its head's address is gone at once: that is
why the notice comes first, and not as a part of the stop.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.kube.affinity import Taint, pinned, with_tolerations
from scheduler.kube.api import Raw
from scheduler.kube.launch import SHARE_OF_NODE, Gang, Launch, Settings
from scheduler.kube.names import DRAIN, FIELD_MANAGER, GPU, JOB, PROJECT, QUEUE, TEAM, label_value

FOLDER, NOTICES = "/var/run/flopwise", "/etc/flopwise"
DRAIN_FILE = f"{NOTICES}/drain"  # empty until then; afterwards the time until when, RFC 3339
SAVED_FILE = f"{FOLDER}/saved"
VOLUMES: tuple[Raw, ...] = (
    {"name": "flopwise", "emptyDir": {}},
    {
        "name": "flopwise-notices",
        "downwardAPI": {
            "items": [
                {
                    "path": "drain",
                    "fieldRef": {
                        "apiVersion": "v1",
                        "fieldPath": f"metadata.annotations['{DRAIN}']",
                    },
                }
            ]
        },
    },
)
MOUNTS: tuple[Raw, ...] = (
    {"name": "flopwise", "mountPath": FOLDER},
    {"name": "flopwise-notices", "mountPath": NOTICES, "readOnly": True},
)
MAIN = "main"  # how a user's template calls our container, whatever we call it
_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort", "tolerations": ""}
GPU_TAINT = Taint(key=GPU)


def labels(launch: Launch) -> dict[str, str]:
    """What everything that carries out a job bears, its pods too."""
    metadata, spec = launch.job.metadata, launch.job.spec
    stated = {
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        JOB: label_value(metadata.name),
        QUEUE: label_value(spec.queue),
        TEAM: label_value(metadata.labels.get(TEAM, spec.queue)),
        PROJECT: label_value(metadata.labels.get(PROJECT, "")),
    }
    return {key: value for key, value in stated.items() if value}


def environment(launch: Launch, settings: Settings) -> list[Raw]:
    """What a program is told by its environment."""
    metadata = launch.job.metadata
    root = settings.checkpoint_root.rstrip("/")
    stated = {
        "FLOPWISE_JOB": metadata.name,
        "FLOPWISE_NAMESPACE": metadata.namespace,
        "FLOPWISE_ATTEMPT": str(launch.attempt),
        "FLOPWISE_REPLICAS": str(launch.replicas),
        "FLOPWISE_GPUS": str(sum(gang.count * gang.ray_gpus for gang in launch.gangs)),
        "FLOPWISE_LAYOUT": launch.gangs[0].layout,
        "FLOPWISE_CHECKPOINT_DIR": f"{root}/{metadata.namespace}/{metadata.name}" if root else "",
        "FLOPWISE_DRAIN_FILE": DRAIN_FILE,
        "FLOPWISE_SAVED_FILE": SAVED_FILE,
    }
    return [{"name": name, "value": value} for name, value in stated.items() if value]


def save_seconds(launch: Launch) -> int:
    """What the job has to save before it is stopped: none where it saves nothing."""
    checkpoint = launch.job.spec.checkpoint
    return math.ceil(checkpoint.save_seconds) if checkpoint.interval_seconds else 0


def grace_seconds(launch: Launch, settings: Settings) -> int:
    """From the notice to the kill."""
    return save_seconds(launch) + settings.stop_seconds


def drain_command(launch: Launch, then: str = "") -> list[str]:
    """A ``preStop`` hook: waits for a program that was told and has not saved yet, and ends it."""
    wait = (
        f'n=0; while [ -s "{DRAIN_FILE}" ] && [ ! -e "{SAVED_FILE}" ] '
        f"&& [ $n -lt {save_seconds(launch)} ]; do sleep 1; n=$((n+1)); done"
    )
    return ["/bin/sh", "-c", "; ".join(filter(None, (wait, then)))]


def resources(launch: Launch, gang: Gang) -> Raw:
    """Requests and limits of a replica's container.

    CPUs and memory that a task states are asked for in full. What other work takes of them is its
    GPUs' share of the node, of which a tenth is left for what else has to run there.
    """
    share = 1.0 if launch.job.spec.task is not None else SHARE_OF_NODE
    gpu, count = gang.gpu_request()
    requests = {gpu: str(count)}
    if gang.amounts.cpu_milli:
        requests["cpu"] = cpus(math.floor(gang.amounts.cpu_milli * share))
    limits = {gpu: str(count)}
    if gang.amounts.memory_bytes:
        memory = str(math.floor(gang.amounts.memory_bytes * share))
        requests["memory"] = limits["memory"] = memory
    return {"requests": requests, "limits": limits}


def cpus(milli: int) -> str:
    """Thousandths of a CPU as Kubernetes writes them itself: what it would rewrite is a change.

    >>> cpus(16000), cpus(1500)
    ('16', '1500m')
    """
    return f"{milli}m" if milli % 1000 else str(milli // 1000)


def on_nodes(spec: Raw, gang: Gang) -> Raw:
    """A pod's spec, on the gang's nodes and no others."""
    return {
        **spec,
        "affinity": pinned(spec.get("affinity"), gang.hostnames),
        "tolerations": with_tolerations(spec.get("tolerations"), (GPU_TAINT, *gang.taints)),
    }


def merged(ours: Raw, theirs: Mapping[str, Any], main: str) -> Raw:
    """A pod template with the user's merged over it; their container `MAIN` is our ``main``."""
    stated = copy.deepcopy(dict(theirs))
    for container in (stated.get("spec") or {}).get("containers") or ():
        if container.get("name") == MAIN:
            container["name"] = main
    return over(ours, stated)


def over(base: Mapping[str, Any], top: Mapping[str, Any]) -> Raw:
    """Mappings merge, lists of named things merge by name, everything else is replaced."""
    made = copy.deepcopy(dict(base))
    for key, value in top.items():
        known = made.get(key)
        if value is None:
            made.pop(key, None)
        elif isinstance(known, Mapping) and isinstance(value, Mapping):
            made[key] = over(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            made[key] = _lists(known, value, _KEYS.get(key, "name"))
        else:
            made[key] = copy.deepcopy(value)
    return made


def _lists(base: Sequence[Any], top: Sequence[Any], key: str) -> list[Any]:
    if not key:
        return [*base, *(each for each in top if each not in base)]
    if not all(isinstance(each, Mapping) and key in each for each in (*base, *top)):
        return list(top)
    theirs = {each[key]: each for each in top}
    known = {each[key] for each in base}
    return [
        *(over(each, theirs[each[key]]) if each[key] in theirs else each for each in base),
        *(each for each in top if each[key] not in known),
    ]
