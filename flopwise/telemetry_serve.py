"""``flopwise telemetry serve``: the collector of a node, with its metrics and its store."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from flopwise.errors import Fail
from telemetry import collect, nvml
from telemetry.podresources import GPU_RESOURCES, SOCKET

PORT = 9402


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = PORT,
    address: Annotated[str, typer.Option(help="To listen at; default: all of them.")] = "",
    interval: Annotated[str, typer.Option(help="Time between two readings: 1s, 5s.")] = "1s",
    length: Annotated[
        str, typer.Option("--duration", help="How long to serve: 1h, 7d, forever.")
    ] = "forever",
    dcgm_compatible: Annotated[
        bool, typer.Option("--dcgm-compatible", help="Metrics under dcgm-exporter's names too.")
    ] = False,
    store: Annotated[
        Path | None, typer.Option(help="Keep what is read, by owner, in this file.")
    ] = None,
    kubelet_socket: Annotated[Path, typer.Option(help="Who tells which pod has what.")] = SOCKET,
    gpu_resource: Annotated[
        list[str] | None, typer.Option(help="What GPUs are called here, beside nvidia.com/gpu.")
    ] = None,
    proc: Annotated[Path, typer.Option(help="Where the host's processes are.")] = Path("/proc"),
) -> None:
    """Read the GPUs of this machine for good, and say what they do, for whom, at /metrics.

    /healthz fails once nothing could be read for a minute. NODE_NAME names the node.
    """
    from flopwise.telemetry import Teller, length_of, say, tensor_units
    from telemetry import apiserver, owners
    from telemetry.exporter import Exporter, Snapshot
    from telemetry.exporter import serve as serve_metrics
    from telemetry.podresources import PodResources
    from telemetry.store import Ring, StoreError
    from telemetry.watch import Watch

    every = length_of(interval, "--interval")
    last = None if length == "forever" else length_of(length, "--duration")
    node = os.environ.get("NODE_NAME") or socket.gethostname()
    causes = nvml.Causes(say)
    exporter = Exporter(interval_seconds=every.total_seconds(), dcgm_compatible=dcgm_compatible)
    resources = (*GPU_RESOURCES, *(gpu_resource or ()))
    try:
        with ExitStack() as stack:
            driver = nvml.Driver(node=node, causes=causes, tensor_units=tensor_units)
            ring = stack.enter_context(Ring(store)) if store is not None else None
            kubelet = stack.enter_context(PodResources(kubelet_socket, resources=resources))
            watch = Watch(kubelet, node=node, api=apiserver.in_cluster(), proc=proc, tell=say)

            def publish(tick: collect.Tick) -> None:
                told = watch.told(tick.samples)
                found = owners.shares(tick.samples, told.known)
                exporter.take(
                    Snapshot(
                        time=tick.time,
                        samples=tick.samples,
                        shares=found,
                        unreadable=len(tick.unreadable),
                        failure=tick.failure,
                        causes=dict(causes.counts),
                        pods_age_seconds=told.pods_age_seconds,
                        devices=told.known.devices,
                    )
                )
                if ring is not None and tick.samples:
                    ring.append(owners.uses(tick.samples, found))

            served = serve_metrics(exporter, port, address)
            stack.callback(served.close)
            say(f"metrics at http://{address or node}:{served.port}/metrics")
            watch.start()
            stack.callback(watch.stop)
            budget = every.total_seconds() * collect.BUDGET_FRACTION
            collector = collect.Collector(driver, budget_seconds=budget)
            collect.run(collector, collect.ticks(every, last), [Teller(), publish], causes)
    except (nvml.NvmlUnavailableError, nvml.DriverLostError, StoreError) as error:
        raise Fail(str(error)) from None
    except OSError as error:
        raise Fail(f"{address or 'port'} {port}: {error.strerror or error}") from None
