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


def test_a_context_before_the_command_is_that_of_the_command(
    flopwise: Command, tmp_path: Path
) -> None:
    nowhere = tmp_path / "none"
    for command in (
        *(("get",), ("status", "a"), ("logs", "a"), ("cancel", "a"), ("doctor",)),
        *(("report", "json"), ("report", "html"), ("operator", "run")),
    ):
        ended = flopwise("--kubeconfig", nowhere, *command)
        assert ended.code == 1, command
        assert str(nowhere) in ended.lines[0]


def test_a_command_that_uses_no_cluster_takes_no_context(flopwise: Command) -> None:
    ended = flopwise("--context", "prod", "apply", "-f", "plan.json")
    assert ended.code == 2
    assert "found --context, allowed: none (apply uses no cluster)" in ended.err


def test_a_cluster_has_no_state_folder_and_this_machine_no_server(
    flopwise: Command, tmp_path: Path
) -> None:
    ended = flopwise("--context", "prod", "get", "--state-dir", tmp_path)
    assert ended.code == 2
    assert "found --state-dir beside a cluster, allowed: one of them" in ended.err
    ended = flopwise("cancel", "--all", "--dry-run", "server", "--state-dir", tmp_path)
    assert ended.code == 2
    assert "found server without a cluster, allowed: none, client" in ended.err
    ended = flopwise("--context", "prod", "report", "json", "--runs", tmp_path)
    assert ended.code == 2
    assert "found --runs beside a cluster, allowed: one of them" in ended.err
