"""The jobs of a cluster, as ``submit``, ``get``, ``status``, ``logs`` and ``cancel`` have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import typer

from flopwise.context import DryRun
from flopwise.errors import BAD_INPUT, NOT_FOUND, Fail
from flopwise.jobs import FOLLOW_SECONDS, Output, print_rows, say
from planner.manifests.errors import plain
from planner.manifests.read import read
from planner.manifests.schema import GpuJob
from planner.manifests.write import document
from scheduler.kube import gpu_jobs
from scheduler.kube.api import Raw
from scheduler.kube.client import Kube
from scheduler.kube.errors import NotFound
from scheduler.kube.names import GPU_JOBS, PODS

_SHORT = ("name", "state", "queue", "pool", "gpus", "start", "end", "costUsd", "reason")


def submit(kube: Kube, file: Path, namespace: str, dry_run: DryRun) -> None:
    """Apply the one GpuJob of a file; its name is printed.

    It goes to ``namespace``, else to the one it states, else to the context's.
    """
    found = read([file], references=False).jobs
    if len(found) != 1:
        raise Fail(f"{file}: found {len(found)} GpuJobs, allowed: one", BAD_INPUT)
    job = _placed(found[0], file, namespace, kube.namespace)
    if dry_run is not DryRun.CLIENT:
        kube.apply(GPU_JOBS, document(job), dry_run=dry_run is DryRun.SERVER)
    say(f"in namespace {job.metadata.namespace}{_untouched(dry_run)}")
    typer.echo(job.metadata.name)


def _placed(job: GpuJob, file: Path, namespace: str, current: str) -> GpuJob:
    stated = job.metadata.namespace if "namespace" in job.metadata.model_fields_set else ""
    if namespace and stated and stated != namespace:
        raise Fail(
            f"{file}: {job.metadata.name}: metadata.namespace: found {stated},"
            f" allowed: {namespace} (--namespace)",
            BAD_INPUT,
        )
    where = {"namespace": namespace or stated or current}
    return job.model_copy(update={"metadata": job.metadata.model_copy(update=where)})


def get(kube: Kube, namespace: str, output: Output) -> None:
    """List the GpuJobs of a namespace, or of all where it is empty."""
    now = datetime.now(UTC)
    found = [gpu_jobs.row(raw, now) for raw in kube.list(GPU_JOBS, namespace).items]
    _print(found, output, ("namespace", *_SHORT) if not namespace else _SHORT)
    if not found:
        say(f"no jobs in {f'namespace {namespace}' if namespace else 'any namespace'}")


def status(kube: Kube, name: str, namespace: str, output: Output) -> None:
    """Say where one job stands."""
    _print([gpu_jobs.row(_job(kube, name, namespace), datetime.now(UTC))], output, _SHORT)


def _print(rows: list[Raw], output: Output, short: tuple[str, ...]) -> None:
    if output is Output.TABLE:
        rows = [{name: row[name] for name in short} for row in rows]
    print_rows(rows, output)


def _job(kube: Kube, name: str, namespace: str) -> Raw:
    try:
        return kube.get(GPU_JOBS, name, namespace)
    except NotFound as error:
        if error.reason != "NotFound" or error.details.get("name") != name:
            raise  # the kind itself is not there
        raise Fail(f"{name}: found no such GpuJob in namespace {namespace}", NOT_FOUND) from None


def logs(
    kube: Kube,
    name: str,
    namespace: str,
    *,
    follow: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """What a job has written, a pod after the other; followed, until it has ended.

    A job that was stopped and goes on writes on from another pod: followed, that comes next.
    """
    shown: set[str] = set()
    while True:
        raw = _job(kube, name, namespace)
        for pod in _pods(kube, raw, namespace):
            if pod["metadata"]["uid"] not in shown and gpu_jobs.has_log(pod):
                shown.add(pod["metadata"]["uid"])
                yield from _log(kube, pod, namespace, follow=follow)
        if not follow or gpu_jobs.has_ended(raw):
            break
        sleep(FOLLOW_SECONDS)
    if not shown:
        say(f"{name} has no pod with a log now: it is {gpu_jobs.state_of(raw)}")


def _pods(kube: Kube, raw: Raw, namespace: str) -> tuple[Raw, ...]:
    labels = gpu_jobs.log_selector(raw)
    return gpu_jobs.in_order(kube.list(PODS, namespace, labels=labels).items) if labels else ()


def _log(kube: Kube, pod: Raw, namespace: str, *, follow: bool) -> Iterator[str]:
    try:
        yield from kube.log(
            pod["metadata"]["name"],
            namespace,
            container=gpu_jobs.log_container(pod),
            follow=follow,
        )
    except NotFound:
        return  # it was taken away meanwhile


def cancel(kube: Kube, names: tuple[str, ...], namespace: str, dry_run: DryRun) -> None:
    """Delete GpuJobs, all of the namespace where none is named; those that have ended stay."""
    if names:
        found = [_job(kube, name, namespace) for name in dict.fromkeys(names)]
    else:
        found = list(kube.list(GPU_JOBS, namespace).items)
    wanted = [raw for raw in found if not gpu_jobs.has_ended(raw)]
    for raw in wanted:
        metadata = raw["metadata"]
        if dry_run is not DryRun.CLIENT:
            kube.delete(
                GPU_JOBS,
                metadata["name"],
                namespace,
                uid=metadata["uid"],
                dry_run=dry_run is DryRun.SERVER,
            )
        typer.echo(f"{plain(metadata['name'])} cancelled{_untouched(dry_run)}")
    if not wanted:
        say("nothing to cancel: all of it has ended")


def _untouched(dry_run: DryRun) -> str:
    return "" if dry_run is DryRun.NONE else f" ({dry_run} dry run)"
