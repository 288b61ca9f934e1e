"""What errors mean: a verdict by hand for each kind of evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from telemetry.health import FINE, WATCH_TIME, Evidence, Verdict, judge, xids
from telemetry.samples import Health, RemappedRows

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def cordon(reason: str) -> Verdict:
    return Verdict(health=Health.CORDON, reason=reason)


def watch(reason: str) -> Verdict:
    return Verdict(health=Health.WATCH, reason=reason)


def rows(*, pending: bool = False, failed: bool = False) -> RemappedRows:
    return RemappedRows(corrected=3, uncorrected=1, pending=pending, failed=failed)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(now=NOON), FINE),
        (Evidence(now=NOON, recovery_action="none"), FINE),
        (Evidence(now=NOON, remapped_rows=rows()), FINE),
        (Evidence(now=NOON, lost="GPU is lost"), cordon("it can't be read: GPU is lost")),
        (
            Evidence(now=NOON, recovery_action="drain_and_reset"),
            cordon("the driver asks for drain_and_reset"),
        ),
        (Evidence(now=NOON, unavailable=True), cordon("the driver says that it is unavailable")),
        (
            Evidence(now=NOON, remapped_rows=rows(failed=True)),
            cordon("a bad row of its memory could not be replaced"),
        ),
        (
            Evidence(now=NOON, remapped_rows=rows(pending=True)),
            watch("a row of its memory is replaced at the next reset"),
        ),
        (Evidence(now=NOON, ecc_uncorrected=2), watch("2 uncorrectable memory errors")),
        (Evidence(now=NOON, deaf="Timeout"), watch("its errors are not heard: Timeout")),
        (
            Evidence(now=NOON, xids={79: NOON}),
            cordon("Xid 79: GPU has fallen off the bus (restart_node)"),
        ),
        (Evidence(now=NOON, xids={13: NOON}), FINE),  # the application's own fault
        (
            Evidence(now=NOON, xids={94: NOON}),
            watch("Xid 94: memory error contained to one process (restart_app)"),
        ),
        (Evidence(now=NOON, xids={9999: NOON}), watch("Xid 9999")),
    ],
)
def test_each_kind_of_evidence_has_its_verdict(evidence: Evidence, verdict: Verdict) -> None:
    assert judge(evidence) == verdict


def test_the_gravest_reason_speaks() -> None:
    found = judge(Evidence(now=NOON, xids={94: NOON, 95: NOON}, ecc_uncorrected=2))
    assert found == cordon("Xid 95: uncontained memory error (reset_gpu)")


def test_an_error_to_watch_is_forgotten_after_a_while_and_one_that_cordons_is_not() -> None:
    long_ago = NOON - WATCH_TIME - timedelta(seconds=1)
    assert judge(Evidence(now=NOON, xids={94: long_ago})) == FINE
    assert judge(Evidence(now=NOON, xids={79: long_ago})).health is Health.CORDON


def test_the_table_says_of_each_xid_what_nvidia_says_and_where() -> None:
    # NVIDIA's catalog: 48, 62, 64, 95, 119 and 120 call for a reset, 79 for a restart of the node.
    bad = {number for number, xid in xids().items() if xid.health is Health.CORDON}
    assert {48, 62, 64, 74, 79, 95, 119, 120} <= bad
    # The device plugin leaves a GPU with any of these as it is: an application causes them.
    fine = {number for number, xid in xids().items() if xid.health is Health.FINE}
    assert {13, 31, 43, 45, 68} <= fine
    assert {xids()[number].action for number in bad} <= {
        "reset_gpu",
        "restart_node",
        "restart_vm",
        "nvlink_workflow",
        "check_mechanicals",
    }
    assert all(xid.name and xid.action for xid in xids().values())
