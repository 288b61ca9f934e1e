"""What decides is compiled before somebody waits for it: a made-up world is decided on once.

What is compiled is kept in a folder (`planner.compiled`), which in a new pod is empty. It is for
the processor that it was compiled on, so that none can be brought along in an image.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from planner.problem import (
    GPU_MILLI,
    Amounts,
    Billing,
    Device,
    Grid,
    Job,
    Mode,
    Node,
    Pool,
    Queue,
    Window,
    Work,
)
from scheduler.controller.decide import Decider
from scheduler.controller.state import JobArrived, QueueRules, State, Tick, Tracked

_START = datetime(2026, 1, 1, tzinfo=UTC)
_GPUS, _NODES, _SLOTS = 8, 2, 24
_LEVEL = "rack"
_NODE = Amounts(gpu_milli=_GPUS * GPU_MILLI, cpu_milli=8000, memory_bytes=2**33)


def warm() -> None:
    """Compile, or read what is kept: seconds in a new place, about one else."""
    state, decider = _world(), Decider()
    for number, made in enumerate((_job("gang", _NODES), _job("one", 1), _job("part", 1, 250))):
        arrived = Tracked(job=made, arrived=_START, uid=str(number))
        state = decider.run(JobArrived(at=_START, job=arrived), state)
    decider.run(Tick(at=state.grid.time(1)), state)


def _world() -> State:
    window = Window(
        start=0,
        end=_SLOTS,
        nodes=_NODES,
        usd_per_node_hour=8.0,
        marginal_usd_per_node_hour=1.0,
    )
    pool = Pool(
        name="pool",
        accelerator="any",
        gpus_per_node=_GPUS,
        capacity=_NODE,
        windows=(window,),
        billing=Billing.GPU,
        purchase="on_demand",
        topology_levels=(_LEVEL,),
    )
    return State(
        now=_START,
        grid=Grid(start=_START, slot_seconds=3600, slots=_SLOTS),
        pools=(pool,),
        nodes=tuple(_node(number) for number in range(_NODES)),
        queues=(QueueRules(queue=Queue(name="queue", limit=(("any", _GPUS * _NODES),))),),
    )


def _node(number: int) -> Node:
    return Node(
        name=f"node-{number}",
        pool="pool",
        index=number,
        capacity=_NODE,
        devices=tuple(Device(uuid=f"{number}/{each}") for each in range(_GPUS)),
        topology=("rack-0",),
    )


def _job(name: str, replicas: int, milli: int = _GPUS * GPU_MILLI) -> Job:
    """A gang that may be anywhere, or together in a rack, or on nodes apart."""
    amounts = Amounts(gpu_milli=milli, cpu_milli=1000, memory_bytes=2**30)
    anywhere = Mode(
        pool="pool",
        replicas=replicas,
        amounts=amounts,
        work_per_replica_hour=1.0,
        usd_per_replica_hour=8.0,
        full_usd_per_replica_hour=9.0,
    )
    together, apart = replace(anywhere, together=_LEVEL), replace(anywhere, spread=_LEVEL)
    return Job(
        name=name,
        need=Work(amount=2.0),
        modes=(anywhere, together, apart),
        queue="queue",
        deadline=_SLOTS,
        unplaced_usd=1e4,
    )
