"""Quantities, and what a pod asks of its node."""

from __future__ import annotations

from collections import Counter

import pytest

from scheduler.kube.quantities import amounts, milli, requests, whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        (3, 3),
        ("1500m", 2),
        ("2Ki", 2048),
        ("1Gi", 2**30),
        ("1.5Gi", 3 * 2**29),
        ("2G", 2 * 10**9),
        ("1e3", 1000),
        ("2E3", 2000),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("100n", 1),
    ],
)
def test_a_quantity_is_a_whole_number_rounded_up(text: object, expected: int) -> None:
    assert whole(text) == expected


def test_cpus_are_counted_in_thousandths() -> None:
    assert (milli("2"), milli("250m"), milli("0.1"), milli("100u")) == (2000, 250, 100, 1)


@pytest.mark.parametrize("text", ["", "two", "1 Gi", "1gi", "1.2.3", ".", None])
def test_what_is_no_quantity_is_said_so(text: object) -> None:
    with pytest.raises(ValueError, match="allowed: a quantity"):
        whole(text)


def test_a_pod_asks_for_the_most_that_it_ever_holds() -> None:
    # Containers 1 + 2 CPUs and a sidecar of 0.5: 3.5. An init container of 4 runs beside the
    # sidecar before it, 4.5 together: more. Memory: 1 Gi, and overhead 1 Gi on top of it.
    spec = {
        "containers": [
            {"resources": {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": "2"}}},
            {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}},
        ],
        "initContainers": [
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
            {"resources": {"requests": {"cpu": "4"}}},
        ],
        "overhead": {"memory": "1Gi"},
    }
    assert requests(spec) == Counter({"cpu": 4500, "memory": 2 * 2**30, "nvidia.com/gpu": 2})


def test_an_init_container_that_ends_leaves_nothing_behind() -> None:
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"resources": {"requests": {"cpu": "500m"}}}],
    }
    assert requests(spec)["cpu"] == 1000


def test_what_the_pod_states_as_a_whole_holds() -> None:
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
        "resources": {"requests": {"cpu": "6"}},
    }
    assert requests(spec) == Counter({"cpu": 6000, "memory": 2**30})


def test_nothing_stated_is_nothing() -> None:
    assert requests({"containers": [{}]}) == Counter()
    assert amounts(None) == Counter()
