"""``flopwise operator run``: the operator of a cluster."""

from __future__ import annotations

import os
import signal
import socket
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flopwise.context import Context, Kubeconfig, connected
from flopwise.errors import BAD_INPUT, FAILED, NOT_FOUND, Fail
from flopwise.jobs import Output, OutputOption, print_rows

if TYPE_CHECKING:
    from telemetry.scrape import Prometheus

# From which the tokens of Rays are made, the same for all replicas; behind it, with blanks between,
# those before it, of which Rays that run still have theirs.
RAY_KEY = "FLOPWISE_RAY_KEY"

app = typer.Typer(help="Plan and run the jobs of a cluster.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Plan and run the jobs of a cluster."""


@app.command("report")
def report(
    output: OutputOption = Output.TABLE, context: Context = "", kubeconfig: Kubeconfig = ""
) -> None:
    """Show what an operator that only observes has seen of each queue, and would have saved."""
    from flopwise import observed
    from scheduler.kube.names import GPU_QUEUES

    with connected(context, kubeconfig) as kube:
        found = observed.rows(kube.list(GPU_QUEUES).items)
    if not found:
        raise Fail("found no queue that is observed (operator run --observe-only)", NOT_FOUND)
    if output is Output.TABLE:
        typer.echo(observed.as_text(found), nl=False)
    else:
        print_rows(found, output)


@app.command("run")
def run(  # what an operator can be told
    observe_only: Annotated[
        bool, typer.Option("--observe-only", help="Only say what would be done and saved.")
    ] = False,
    namespaces: Annotated[
        str, typer.Option("--namespaces", help="Those whose jobs are planned, with commas; or all.")
    ] = "",
    lease_namespace: Annotated[
        str, typer.Option("--lease-namespace", help="Of the Lease; else the context's namespace.")
    ] = "",
    lease_name: Annotated[str, typer.Option("--lease-name", help="Of the Lease.")] = "flopwise",
    lease_seconds: Annotated[
        float, typer.Option("--lease-seconds", help="Silence after which another takes over.")
    ] = 15.0,
    renew_seconds: Annotated[
        float, typer.Option("--renew-seconds", help="Without a renewal, nothing more is written.")
    ] = 10.0,
    retry_seconds: Annotated[
        float, typer.Option("--retry-seconds", help="Between two renewals.")
    ] = 2.0,
    kube_api_qps: Annotated[
        float, typer.Option("--kube-api-qps", help="Requests a second, on average.")
    ] = 50.0,
    kube_api_burst: Annotated[int, typer.Option("--kube-api-burst", help="And at once.")] = 100,
    metrics_port: Annotated[int, typer.Option("--metrics-port", help="0: any.")] = 8080,
    health_port: Annotated[int, typer.Option("--health-port", help="0: any.")] = 8081,
    workers: Annotated[int, typer.Option("--workers", help="Requests that write at once.")] = 16,
    slot_seconds: Annotated[
        int, typer.Option("--slot-seconds", help="Step of the planner's time.")
    ] = 300,
    horizon_hours: Annotated[
        float, typer.Option("--horizon-hours", help="How far ahead is planned.")
    ] = 48.0,
    plan_every_seconds: Annotated[
        float,
        typer.Option("--plan-every-seconds", help="Between plans of the whole queue; 0: none."),
    ] = 10.0,
    plan_seconds: Annotated[
        float, typer.Option("--plan-seconds", help="That such a plan may take.")
    ] = 5.0,
    notice_seconds: Annotated[
        float, typer.Option("--notice-seconds", help="From the notice to the stop, at least.")
    ] = 30.0,
    node_lost_seconds: Annotated[
        float, typer.Option("--node-lost-seconds", help="Not ready for so long, a node is lost.")
    ] = 60.0,
    checkpoint_root: Annotated[
        str, typer.Option("--checkpoint-root", help="Folder or URL that jobs save below.")
    ] = "",
    head_cpu: Annotated[
        str, typer.Option("--head-cpu", help="CPUs of the head of each Ray; it needs no GPU.")
    ] = "1",
    head_memory: Annotated[
        str, typer.Option("--head-memory", help="Memory of the head of each Ray.")
    ] = "4Gi",
    prometheus: Annotated[
        str,
        typer.Option(metavar="URL", help="That keeps what the GPUs do: who is idle, what is bad."),
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="With --prometheus: a file with its bearer token.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `calibrate` wrote; read anew when it changes."),
    ] = None,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Run the operator until it is told to end (SIGTERM), or loses its Lease (exit 1)."""
    from scheduler.controller import loop, sight, state
    from scheduler.controller.leader import Leader, Terms
    from scheduler.controller.log import Log
    from scheduler.controller.metrics import serve_health, serve_metrics
    from scheduler.kube import launch
    from scheduler.kube.errors import KubeError
    from scheduler.kube.kubeconfig import connect

    try:
        terms = Terms(
            lease_seconds=lease_seconds, renew_seconds=renew_seconds, retry_seconds=retry_seconds
        )
        kube = connect(
            context=context, kubeconfig=kubeconfig, qps=kube_api_qps, burst=kube_api_burst
        )
        holder = connect(context=context, kubeconfig=kubeconfig)  # renewals wait for no write
        can = launch.discovered(kube.serves, kube.declares)
    except (KubeError, ValueError) as error:
        raise Fail(str(error), BAD_INPUT if isinstance(error, ValueError) else FAILED) from None
    log = Log()
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{os.getpid()}"
    leader = Leader(
        holder,
        name=lease_name,
        namespace=lease_namespace or kube.namespace,
        identity=identity,
        terms=terms,
    )
    settings = loop.Settings(
        slot=timedelta(seconds=slot_seconds),
        horizon=timedelta(hours=horizon_hours),
        namespaces=tuple(part.strip() for part in namespaces.split(",") if part.strip()),
        observe_only=observe_only,
        ray_keys=tuple(each.encode() for each in os.environ.get(RAY_KEY, "").split()),
        workers=workers,
        plan_every_seconds=plan_every_seconds,
        plan_seconds=plan_seconds,
        source=_source(prometheus, token_file),
        calibration=calibration,
        decisions=state.Settings(notice_seconds=notice_seconds),
        sight=sight.Settings(node_lost_seconds=node_lost_seconds, notice_seconds=notice_seconds),
        launch=launch.Settings(
            checkpoint_root=checkpoint_root,
            head_cpu=head_cpu,
            head_memory=head_memory,
            operator_namespace=os.environ.get("POD_NAMESPACE", ""),
        ),
    )
    operator = loop.Operator(kube, settings, can=can, leader=leader, log=log)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: operator.stop())
    metrics = serve_metrics(operator.metrics, metrics_port)
    health = serve_health(operator.not_alive, operator.not_ready, health_port)
    log.say(
        "started",
        identity=identity,
        server=kube.url,
        qps=kube.qps,
        burst=kube.burst,
        observeOnly=observe_only,
        metricsPort=metrics.port,
        healthPort=health.port,
    )
    if not settings.ray_keys:
        log.say(
            "no key: whoever acts next cannot ask the Rays of this operator",
            "warning",
            variable=RAY_KEY,
        )
    leader.start()
    kept = operator.run()
    leader.stop()
    if not kept:
        raise Fail("the lease was lost", FAILED)
    log.say("ended")


def _source(prometheus: str, token_file: Path | None) -> Prometheus | None:
    from telemetry.scrape import Prometheus

    if not prometheus:
        return None
    try:
        token = token_file.read_text(encoding="utf-8").strip() if token_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Fail(f"--token-file: {token_file}: {error}", BAD_INPUT) from None
    return Prometheus(url=prometheus, token=token)
