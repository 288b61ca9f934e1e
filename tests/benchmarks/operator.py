"""The operator on the wide cluster: 2,000 one-pod suspended Jobs in 30 queues.

    python -m tests.benchmarks.operator [--jobs 2000] [--nodes 50]

Each on a control plane of its own. *Without us*, the same Jobs are released by as many writers as
the operator has, with the patches that it would write, as many at once as there are GPUs: what the
API server and the controllers need by themselves. *With us*, the operator does it, from when it
acts; when a quarter has run it is asked for 80 nodes of GPUs more than there are. Then it is
started anew beside the 2,000 Jobs that have run, and asked for these again.

| what | aim |
|---|---|
| 2,000 Jobs admitted and released; run times 1 to 10 s | within 1.3x of the cluster's own speed |
| a job of 80 GPUs that cannot fit | condition within 2 s of its creation |
| memory of the operator, and with the process that plans | 300 MiB at most |
| start until ready with 2,000 jobs | 10 s at most |
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.kube import adopt, names
from scheduler.kube.client import Kube
from scheduler.kube.crds import CHART_CRDS
from scheduler.kube.errors import KubeError
from scheduler.kube.kubeconfig import connect
from tests.benchmarks.measure import publish
from tests.cluster import build
from tests.cluster.api import Object, eventually
from tests.cluster.cluster import RATES, WIDE, Cluster
from tests.cluster.test_operator import FLOPWISE, Operators, condition, put, suspended_job, task

QPS, BURST, WRITERS = 1000.0, 2000, 16
QUEUES = 30
SEED = 0
GPUS_A_NODE = 8
POOL = "bench"
AIMS = {
    "ratio": "1.3 at most",
    "condition_seconds": "2 at most",
    "condition_seconds_while_they_run": "2 at most",
    "memory_mib": "300 at most",
    "memory_shared_out_mib": "300 at most",
    "start_seconds": "10 at most",
    "start_beside_all_waiting_seconds": "10 at most",
}


@dataclass
class Result:
    """What was measured; seconds, MiB."""

    jobs: int
    nodes: int
    figures: dict[str, float] = field(default_factory=dict)

    def rows(self) -> list[dict[str, object]]:
        """As a table has them."""
        return [
            {"what": name, "measured": round(value, 2), "aim": AIMS.get(name, "")}
            for name, value in self.figures.items()
        ]


def jobs_of(count: int, rng: random.Random) -> list[Object]:
    """Suspended Jobs of a pod of one GPU, that run 1 to 10 s."""
    made = []
    for number in range(count):
        lasts = f"{rng.randint(1, 10)}s"
        raw = suspended_job(f"j{number:05}", f"queue-{number % QUEUES}", 1, lasts)
        raw["metadata"]["annotations"]["flopwise.dev/hours"] = "0.002"
        made.append(raw)
    return made


def create(cluster: Cluster, namespace: str, raws: list[Object]) -> None:
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda raw: cluster.api.post(path, raw), raws))


class Counting(threading.Thread):
    """Follows the Jobs of a namespace by a watch: how many have completed, and which."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        super().__init__(daemon=True)
        self.kube, self.namespace = kube, namespace
        self.completed: set[str] = set()
        self.change = threading.Condition()
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            with suppress(KubeError):  # a busy server cuts watches: it is listed anew
                self._follow()

    def _follow(self) -> None:
        listed = self.kube.list(names.JOBS, self.namespace)
        self._count(listed.items)
        with self.kube.watch(names.JOBS, listed.resource_version, self.namespace) as changes:
            for change in changes:
                if change.type != "BOOKMARK":
                    self._count([change.object])

    def _count(self, raws: Iterable[Object]) -> None:
        ended = {raw["metadata"]["name"] for raw in raws if _is_complete(raw)}
        if ended:
            with self.change:
                self.completed |= ended
                self.change.notify_all()

    def wait_for(self, count: int, within_seconds: float) -> None:
        with self.change:
            if not self.change.wait_for(lambda: len(self.completed) >= count, within_seconds):
                raise TimeoutError(f"{len(self.completed)} of {count} have run")


def _is_complete(raw: Object) -> bool:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Complete" and c["status"] == "True" for c in conditions)


def without_us(kube: Kube, namespace: str, raws: list[Object], hosts: list[str]) -> float:
    """Seconds from the first release to the last end, the same patches written by a script."""
    counting = Counting(kube, namespace)
    counting.start()
    free = [host for host in hosts for _ in range(GPUS_A_NODE)]
    place: dict[str, str] = {}
    waiting = [raw["metadata"]["name"] for raw in reversed(raws)]
    listed = {raw["metadata"]["name"]: raw for raw in kube.list(names.JOBS, namespace).items}
    given_back: set[str] = set()

    def release(name: str, host: str) -> None:
        while True:
            with suppress(KubeError):
                patched(name, host)
                return

    def patched(name: str, host: str) -> None:
        raw = {"apiVersion": "batch/v1", "kind": "Job", **listed[name]}
        patch = adopt.release(raw, [host])
        patch["metadata"].pop("resourceVersion")
        patch["metadata"]["annotations"] |= {"flopwise.dev/attempt": "1"}
        kube.patch(names.JOBS, name, patch, namespace)

    began = time.monotonic()
    with ThreadPoolExecutor(WRITERS) as pool:
        while len(counting.completed) < len(raws):
            while waiting and free:
                name, host = waiting.pop(), free.pop()
                place[name] = host
                pool.submit(release, name, host)
            with counting.change:
                counting.change.wait(0.2)
                ended = counting.completed - given_back
            given_back |= ended
            free += [place[name] for name in ended]
    took = time.monotonic() - began
    counting.ended = True
    return took


def memory_mib(pid: int) -> float:
    """The most that a process had in memory so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(each for each in status.splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


class Watching(threading.Thread):
    """Looks at a process and its children now and then: the most MiB that they had together.

    ``Rss``: each for itself; ``Pss``: what they share, and share with others, in parts.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most = pid, {"Rss": 0.0, "Pss": 0.0}
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(2.0):
            with suppress(OSError, StopIteration):  # a child has just ended
                self._look()

    def _look(self) -> None:
        now = dict.fromkeys(self.most, 0.0)
        for pid in [self.pid, *_children(self.pid)]:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            for what in now:
                line = next(x for x in lines if x.startswith(f"{what}:"))
                now[what] += int(line.split()[1]) / 1024
        self.most = {what: max(most, now[what]) for what, most in self.most.items()}


def processor_seconds(pid: int) -> float:
    """What a process has taken of processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    text = "".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(each) for each in text.split()]


@contextmanager
def bench_cluster(nodes: int) -> Iterator[tuple[Cluster, list[str]]]:
    """A fresh control plane with our kinds, a pool, and the names of its nodes."""
    with Cluster() as cluster:
        cluster.install(*sorted(CHART_CRDS.glob("*.yaml")))
        labels = {"tests.flopwise.dev/pool": POOL}
        hosts = cluster.add_nodes("h100", nodes, prefix=POOL, labels=labels)
        cluster.wait_for_nodes(hosts)
        yield cluster, hosts


def measure(count: int, nodes: int, folder: Path, more: list[str]) -> Result:
    result = Result(jobs=count, nodes=nodes)
    raws = jobs_of(count, random.Random(SEED))
    build.ensure(*WIDE, say=build.to_standard_error)
    with bench_cluster(nodes) as (cluster, hosts):
        space = cluster.add_namespace("alone")
        create(cluster, space, raws)
        kube = connect(kubeconfig=str(cluster.kubeconfig), qps=QPS, burst=BURST)
        result.figures["alone_seconds"] = without_us(kube, space, raws, hosts)
        print(f"without us: {result.figures['alone_seconds']:.1f} s", flush=True)
    with bench_cluster(nodes) as (cluster, _):
        with_us(cluster, raws, nodes, folder, more, result.figures)
    return result


def with_us(
    cluster: Cluster,
    raws: list[Object],
    nodes: int,
    folder: Path,
    more: list[str],
    figures: dict[str, float],
) -> None:
    """The operator has the same Jobs run, and starts anew beside them."""
    space = cluster.add_namespace("with-us")
    spec = {
        "accelerator": "h100",
        "gpusPerNode": GPUS_A_NODE,
        "nodeSelector": {"tests.flopwise.dev/pool": POOL},
        "price": {"purchase": "on_demand", "usdPerGpuHour": 2.0},
    }
    put(cluster, "GpuPool", POOL, "", spec)
    for number in range(QUEUES):
        put(cluster, "GpuQueue", f"queue-{number}", "", {})
    create(cluster, space, raws)
    operators = Operators(cluster, space, folder)
    limits = [f"--kube-api-qps={QPS}", f"--kube-api-burst={BURST}", "--lease-seconds=15"]
    limits += ["--renew-seconds=10", "--retry-seconds=2", "--plan-every-seconds=10", *more]
    kube = connect(kubeconfig=str(cluster.kubeconfig), qps=QPS, burst=BURST)
    counting = Counting(kube, space)
    counting.start()
    operator = operators.start(*limits)
    began = time.monotonic()
    watching = Watching(operator.pid)
    watching.start()
    operators.wait_until_ready(operator)
    figures["start_beside_all_waiting_seconds"] = time.monotonic() - began
    counting.wait_for(len(raws) // 4, 1200)
    figures["condition_seconds_while_they_run"] = told_seconds(cluster, space, nodes)
    counting.wait_for(len(raws), 1200)
    figures["with_us_seconds"] = time.monotonic() - acting_at(operators)
    figures["with_start_seconds"] = time.monotonic() - began
    figures["ratio"] = figures["with_us_seconds"] / figures["alone_seconds"]
    figures["memory_mib"] = memory_mib(operator.pid)
    watching.ended.set()
    figures["memory_with_planner_mib"] = watching.most["Rss"]
    figures["memory_shared_out_mib"] = watching.most["Pss"]
    figures["processor_seconds"] = processor_seconds(operator.pid)
    figures["planner_processor_seconds"] = sum(map(processor_seconds, _children(operator.pid)))
    operator.stop()

    began = time.monotonic()
    operator = operators.start(*limits)
    operators.wait_until_ready(operator)
    figures["start_seconds"] = time.monotonic() - began
    figures["condition_seconds"] = told_seconds(cluster, space, nodes)
    operator.stop()


def told_seconds(cluster: Cluster, space: str, nodes: int) -> float:
    """From the creation of a job that cannot fit until its condition says so; it is removed."""
    began = time.monotonic()
    put(cluster, "GpuJob", "huge", space, task("queue-0", replicas=nodes + 80, gpus=8))
    eventually(
        lambda: condition(cluster, space, "huge", "Planned"), "it is told", every_seconds=0.05
    )
    took = time.monotonic() - began
    cluster.remove(f"{FLOPWISE}/namespaces/{space}/gpujobs/huge")
    return took


def acting_at(operators: Operators) -> float:
    """When the operator began to act, on the clock of `time.monotonic`."""
    from datetime import UTC, datetime

    log = (operators.folder / "operator-0.log").read_text().splitlines()
    line = next(json.loads(each) for each in log if '"acting"' in each)
    ago = (datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()
    return time.monotonic() - ago


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("more", nargs="*", help="further arguments of the operator, after --")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(asked.jobs, asked.nodes, Path(folder), asked.more)
    limits: list[dict[str, object]] = [
        {"what": f"{name}: requests a second, at once", "measured": f"{qps:g}, {burst}", "aim": ""}
        for name, (qps, burst) in {"operator": (QPS, BURST), **RATES}.items()
    ]
    sizes: list[dict[str, object]] = [
        {"what": "jobs", "measured": result.jobs, "aim": ""},
        {"what": "nodes", "measured": result.nodes, "aim": ""},
    ]
    publish("operator", [*limits, *sizes, *result.rows()], seed=SEED)


if __name__ == "__main__":
    main()
