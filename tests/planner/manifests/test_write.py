"""What is written reads back to the same values."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.accelerators import Precision, accelerators
from cost_models.architectures import Method, architectures
from cost_models.prices import Purchase
from planner.manifests.read import Manifests, read
from planner.manifests.schema import (
    Availability,
    Checkpoint,
    ClusterMetadata,
    GpuJob,
    GpuJobSpec,
    GpuPool,
    GpuPoolSpec,
    GpuQueue,
    GpuQueueSpec,
    Idle,
    IdleAction,
    InferenceSpec,
    Manifest,
    Metadata,
    Objective,
    Owned,
    PlacementSpec,
    Power,
    Preemption,
    Preempts,
    Price,
    RentBilling,
    RunSpec,
    Site,
    SiteKind,
    Spread,
    TaskSpec,
    Together,
    Topology,
    TrainingSpec,
)
from planner.manifests.write import document, dump

COUNTS = st.integers(0, 10_000)
POSITIVE_COUNTS = st.integers(1, 1000)
QUANTITIES = st.floats(0, 1e30) | st.integers(0, 10**6).map(float)
POSITIVE = st.floats(1e-9, 1e30)
FRACTIONS = st.floats(0, 1)
# Words that YAML takes for something else when they stand unquoted, and any other text.
TEXTS = st.sampled_from(["NO", "1e21", "010", "null", "2026-12-01", "- a", "a: b #c"]) | st.text(
    st.characters(codec="utf-8"), max_size=30
)
NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\.[a-z0-9]{1,5})?", fullmatch=True)
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # bounds are naive
ACCELERATORS = st.sampled_from(sorted(accelerators()))
MODELS = st.sampled_from(sorted(architectures()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def tuples(of: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=most).map(tuple)


def by_accelerator(of: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(ACCELERATORS, of, min_size=least, max_size=3)


LABELS = st.dictionaries(TEXTS, TEXTS, max_size=3)
CLUSTER_METADATA = st.builds(ClusterMetadata, name=NAMES, labels=LABELS, annotations=LABELS)
METADATA = st.builds(Metadata, name=NAMES, namespace=NAMES, labels=LABELS)


@st.composite
def availabilities(draw: st.DrawFn) -> tuple[Availability, ...]:
    times = sorted(draw(st.sets(INSTANTS, max_size=6)))
    windows = zip(times[::2], times[1::2], strict=False)
    return tuple(Availability(from_=a, to=b, nodes=draw(COUNTS)) for a, b in windows)


@st.composite
def prices(draw: st.DrawFn) -> dict[str, Any]:
    """Price and owned, as they may stand together."""
    owned = st.builds(
        lambda usd, fraction: Owned(capex_usd_per_node=usd, salvage_fraction=fraction),
        QUANTITIES,
        FRACTIONS,
    )
    rented = st.sampled_from([p for p in Purchase if p is not Purchase.OWNED])
    listed = st.builds(
        Price,
        purchase=rented,
        usd_per_gpu_hour=st.none() | QUANTITIES,
        billing=st.sampled_from(RentBilling),
    )
    bought = st.just(Price(purchase=Purchase.OWNED))
    return draw(
        st.fixed_dictionaries({"price": st.none() | listed})
        | st.fixed_dictionaries({"price": st.none() | bought, "owned": owned})
    )


LEVELS = ("clique", "zone")
POOLS = st.builds(
    lambda metadata, spec, price: GpuPool(
        metadata=metadata, spec=GpuPoolSpec(**({"topology_levels": LEVELS} | spec | price))
    ),
    CLUSTER_METADATA,
    st.fixed_dictionaries(
        {"accelerator": ACCELERATORS, "gpus_per_node": st.integers(1, 16), "nodes": COUNTS},
        optional={
            "node_selector": LABELS,
            "cpus_per_node": QUANTITIES,
            "memory_gib_per_node": QUANTITIES,
            "availability": availabilities(),
            "site": st.builds(
                Site,
                kind=st.sampled_from(SiteKind),
                region=TEXTS,
                jurisdiction=st.sampled_from(["", "NO", "EU"]),
            ),
            "startup_seconds": COUNTS,
            "interruptions_per_hour": QUANTITIES,
            "power": st.builds(Power, usd_per_kwh=QUANTITIES, pue=st.floats(1, 3)),
            "topology_levels": st.just((*LEVELS, "site")),
            "topology": st.sampled_from([(), (4,), (2, 8), (2, 0)]).map(
                lambda sizes: Topology(nodes_per_domain=sizes)
            ),
            "mig_geometries": tuples(st.just(("3g.40gb", "1g.10gb+me"))),
        },
    ),
    prices(),
)
PREEMPTS = st.sampled_from(Preempts)
QUEUES = st.builds(
    GpuQueue,
    metadata=CLUSTER_METADATA,
    spec=st.builds(
        GpuQueueSpec,
        parent=st.just("") | NAMES,
        weight=POSITIVE,
        guaranteed=by_accelerator(st.integers(0, 9)),
        lendable=by_accelerator(COUNTS),
        limit=by_accelerator(st.integers(9, 99)),
        budget_usd_per_month=st.none() | QUANTITIES,
        preemption=st.builds(Preemption, within_queue=PREEMPTS, reclaim=PREEMPTS),
        idle=st.builds(Idle, after_seconds=COUNTS, action=st.sampled_from(IdleAction)),
    ),
)
TRAININGS = st.builds(
    TrainingSpec,
    model=MODELS,
    tokens=POSITIVE,
    method=st.sampled_from(Method),
    precision=st.sampled_from(Precision),
    sequence_length=POSITIVE_COUNTS,
    gpus=st.integers(1, 8),
    max_gpus=st.just(0) | st.integers(8, 64),
    throughput=by_accelerator(POSITIVE),
) | st.builds(TrainingSpec, flops=POSITIVE)
INFERENCES = st.builds(
    lambda demand, **fields: InferenceSpec(**demand, **fields),
    st.fixed_dictionaries({"requests_per_second": POSITIVE})
    | st.fixed_dictionaries(
        {"hourly_requests_per_second": st.lists(QUANTITIES, min_size=24, max_size=24).map(tuple)}
    ),
    model=MODELS,
    precision=st.sampled_from(Precision),
    prompt_tokens=POSITIVE_COUNTS,
    output_tokens=POSITIVE_COUNTS,
    objective=st.builds(Objective, ttft_ms=QUANTITIES, percentile=st.floats(1, 100)),
    min_replicas=COUNTS,
)
TASKS = st.builds(
    TaskSpec,
    replicas=POSITIVE_COUNTS,
    doubling_efficiency=st.floats(0.01, 1),
    gpu_fraction=FRACTIONS,
    cpus=QUANTITIES,
    hours=by_accelerator(POSITIVE, least=1),
) | st.builds(
    TaskSpec,
    max_replicas=POSITIVE_COUNTS,
    mig_profile=st.just("3g.40gb"),
    hours=st.just({"l4": 1.0}),
)
PLACEMENTS = st.builds(
    PlacementSpec,
    jurisdictions=tuples(st.sampled_from(["NO", "US", "EU"])),
    accelerators=tuples(ACCELERATORS),
    pools=tuples(NAMES),
    together=st.none() | st.builds(Together, level=st.just("zone"), required=st.booleans()),
    spread=st.none() | st.builds(Spread, level=st.just("host")),
    near=st.just("eu-north-1"),
    max_latency_ms=QUANTITIES,
    data_gib=QUANTITIES,
)
JOBS = st.builds(
    lambda metadata, kind, spec: GpuJob(metadata=metadata, spec=GpuJobSpec(**(kind | spec))),
    METADATA,
    st.one_of(
        st.fixed_dictionaries({"training": TRAININGS}),
        st.fixed_dictionaries({"inference": INFERENCES}),
        st.fixed_dictionaries({"task": TASKS}),
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "queue": NAMES,
            "priority": st.integers(-(2**31), 2**31 - 1),
            "required": st.booleans(),
            "earliest_start": st.none() | st.just(datetime(1970, 1, 1, tzinfo=UTC)),
            "deadline": INSTANTS.filter(lambda when: when.year > 1970),
            "due": INSTANTS,
            "lateness_usd_per_hour": QUANTITIES,
            "unplaced_usd": QUANTITIES,
            "max_cost_usd": QUANTITIES,
            "depends_on": tuples(NAMES.map(lambda name: f"after-{name}")),
            "preemptible": st.booleans(),
            "checkpoint": st.builds(Checkpoint, interval_seconds=COUNTS, save_seconds=QUANTITIES),
            "placement": PLACEMENTS,
            "run": st.builds(
                RunSpec,
                image=TEXTS,
                entrypoint=TEXTS,
                runtime_env=st.dictionaries(TEXTS, JSON, max_size=2),
                pod_template=st.dictionaries(TEXTS, JSON, max_size=2),
            ),
        },
    ),
)


def read_back(*manifests: Manifest) -> Manifests:
    return read(["-"], stdin=io.StringIO(dump(manifests)), references=False)


@given(POOLS)
@settings(max_examples=100, deadline=None)
def test_a_pool_reads_back_as_it_was(pool: GpuPool) -> None:
    assert read_back(pool).pools == (pool,)


@given(QUEUES)
@settings(max_examples=100, deadline=None)
def test_a_queue_reads_back_as_it_was(queue: GpuQueue) -> None:
    queue = queue.model_copy(update={"metadata": ClusterMetadata(name="never.its.own.parent.1")})
    assert read_back(queue).queues == (queue,)


@given(JOBS)
@settings(max_examples=150, deadline=None)
def test_a_job_reads_back_as_it_was(job: GpuJob) -> None:
    assert read_back(job).jobs == (job,)


def test_what_is_not_stated_is_not_written() -> None:
    spec = GpuPoolSpec(accelerator="h100", gpus_per_node=8, nodes=2)
    assert document(GpuPool(metadata=ClusterMetadata(name="h100"), spec=spec)) == {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuPool",
        "metadata": {"name": "h100"},
        "spec": {"accelerator": "h100-sxm5-80gb", "gpusPerNode": 8, "nodes": 2},
    }


def test_text_that_we_would_take_for_a_number_is_quoted() -> None:
    queue = GpuQueue(metadata=ClusterMetadata(name="1e21", labels={"on": "NO"}))
    assert dump([queue]) == (
        "---\napiVersion: flopwise.dev/v1alpha1\nkind: GpuQueue\n"
        "metadata:\n  name: '1e21'\n  labels:\n    'on': 'NO'\n"
    )
