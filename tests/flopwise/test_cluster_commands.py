"""``init`` and ``doctor`` where there is no cluster; tests/cluster has them on a real one."""

from __future__ import annotations

from pathlib import Path

from tests.flopwise.command import Command


def test_init_says_what_it_can_start_from(flopwise: Command) -> None:
    ended = flopwise("init")
    assert (ended.code, ended.lines) == (
        2,
        ["flopwise: nothing to start from, allowed: --from-cluster"],
    )


def test_without_a_cluster_both_say_where_they_looked(flopwise: Command, tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    for command in (("init", "--from-cluster"), ("doctor",)):
        ended = flopwise(*command, "--kubeconfig", nowhere)
        assert ended.code == 1
        (line,) = ended.lines
        assert str(nowhere) in line
        assert ended.out == ""
