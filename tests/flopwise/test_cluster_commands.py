"""``init`` and ``doctor`` where there is no cluster; tests/cluster has them on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.manifests.write import plain_yaml
from tests.flopwise.command import Command
from tests.scheduler.kube.serving import Server, config_for


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An API server that a test writes itself; commands talk to it."""
    made = Server()
    (tmp_path / "config").write_text(plain_yaml(config_for(made.url)))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    yield made
    made.http.shutdown()
    made.http.server_close()


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


CLEAR = "\x1b[2J\x1b]0;title\x07"  # what a terminal would obey
HOSTILE = {"name": f"a{CLEAR}", "namespace": "ml", "uid": "1", "creationTimestamp": "?"}


def test_no_terminal_obeys_what_a_cluster_says(flopwise: Command, server: Server) -> None:
    said = {"reason": f"r{CLEAR}", "message": f"m{CLEAR}", "type": "Planned", "status": "False"}
    job = {"metadata": HOSTILE, "status": {"conditions": [said]}, "spec": {"queue": f"q{CLEAR}"}}
    server.answer = lambda *_: (200, {"items": [job], "metadata": {}})
    ended = flopwise("--context", "one", "get")
    assert ended.code == 0
    assert r"a\x1b[2J" in ended.out
    assert r"q\x1b[2J" in ended.out
    assert "\x1b" not in ended.out + ended.err
    server.answer = lambda *_: (403, {"message": f"no\n{CLEAR}"})
    ended = flopwise("--context", "one", "get")
    assert (ended.code, ended.lines) == (1, [r"flopwise: no \x1b[2J\x1b]0;title\x07"])


@pytest.mark.parametrize("said", [b"", b"[[[", b"{}", b'{"items": 3}', b'{"items": [{}]}'])
@pytest.mark.parametrize("command", [("get",), ("status", "a"), ("logs", "a"), ("cancel", "a")])
def test_an_api_server_that_talks_nonsense_is_said_in_a_line(
    flopwise: Command, server: Server, command: tuple[str, ...], said: bytes
) -> None:
    server.answer = lambda *_: (200, said)
    ended = flopwise("--context", "one", *command)
    if (command, said) == (("get",), b"{}"):  # a list of nothing
        assert ended.code == 0
        return
    assert ended.code == 1
    (line,) = ended.lines
    assert server.url in line
