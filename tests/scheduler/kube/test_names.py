"""Names of objects in a cluster."""

from __future__ import annotations

import re

import pytest

from scheduler.kube import names

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@pytest.mark.parametrize("name", ["a", "llama-8b-sft", "8b.sft", "0", "a" * 63, "a.b", "9" * 63])
def test_a_child_is_named_by_a_dns_1035_label_that_fits(name: str) -> None:
    child = names.child_name(name)
    assert DNS_1035.fullmatch(child)
    assert len(child) <= 47


def test_a_name_that_fits_stays_and_two_that_do_not_never_meet() -> None:
    assert names.child_name("a" * 47) == "a" * 47
    assert names.child_name("a" * 48) != names.child_name("a" * 49)
    assert names.child_name("a.b") != names.child_name("a-b")


def test_a_label_keeps_what_it_can_hold() -> None:
    assert names.label_value("research") == "research"
    assert names.label_value("") == ""
    long = names.label_value("r" * 64)
    assert len(long) == 63
    assert long != names.label_value("r" * 65)


def test_paths_are_those_of_the_api_server() -> None:
    assert names.PODS.path("ml") == "/api/v1/namespaces/ml/pods"
    assert names.PODS.path("ml", "a", "log") == "/api/v1/namespaces/ml/pods/a/log"
    assert names.GPU_POOLS.path("", "h100", "status") == (
        "/apis/flopwise.dev/v1alpha1/gpupools/h100/status"
    )
    assert names.RESOURCES["batch/v1", "Job"] is names.JOBS
    assert names.JOBS.api_version == "batch/v1"
    assert names.PODS.api_version == "v1"
