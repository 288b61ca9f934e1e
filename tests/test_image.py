"""The Dockerfile and its ignore file: what they promise, as text. No test builds an image."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def instructions() -> list[tuple[str, str]]:
    """(instruction, what it says), continued lines joined, in their order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, from its FROM on."""
    found: list[list[tuple[str, str]]] = []
    for instruction, says in instructions():
        if instruction == "FROM":
            found.append([])
        if found:
            found[-1].append((instruction, says))
    return found


def copied() -> list[str]:
    """What is copied from the tree."""
    return [
        source
        for instruction, says in instructions()
        if instruction == "COPY" and "--from" not in says
        for source in says.split()[:-1]
    ]


def ignored(path: str) -> bool:
    """Whether the last pattern that fits leaves the path, or a folder above it, out."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        above = [path, *(str(folder) for folder in Path(path).parents if str(folder) != ".")]
        anywhere = pattern.removeprefix("**/")
        if line and line[0] != "#" and any(fnmatch(each, pattern) for each in above):
            verdict = line[0] != "!"
        elif anywhere != pattern and any(fnmatch(Path(each).name, anywhere) for each in above):
            verdict = True
    return verdict


def test_the_image_is_made_in_two_stages_and_takes_only_what_was_installed() -> None:
    build, final = stages()
    assert build[0] == ("FROM", "${BASE} AS build")
    assert final[0] == ("FROM", "${BASE}")
    assert [says for word, says in final if word in ("COPY", "ADD", "RUN")] == [
        "--from=build /opt/flopwise /opt/flopwise"
    ]


def test_the_image_runs_as_a_user_by_number_who_is_not_root() -> None:
    # By number: `runAsNonRoot` cannot tell what a name means.
    (user,) = [says for word, says in stages()[-1] if word == "USER"]
    assert re.fullmatch(r"[1-9][0-9]{3,}:[1-9][0-9]{3,}", user)


def test_the_image_starts_the_operator() -> None:
    final = dict(stages()[-1])
    assert (final["ENTRYPOINT"], final["CMD"]) == ('["flopwise"]', '["operator", "run"]')


def test_all_that_is_installed_is_pinned_by_its_hash_and_built_already() -> None:
    runs = [says for word, says in instructions() if word == "RUN" and "pip install" in says]
    locked, own = runs
    assert "--require-hashes" in locked
    assert "--only-binary :all:" in locked
    assert "-r requirements/${LOCK}.txt" in locked
    assert ("ARG", "LOCK=operator") in stages()[0]
    assert "--no-index --no-deps" in own


def test_the_image_has_kubernetes_and_no_ray() -> None:
    lock = (ROOT / "requirements" / "operator.txt").read_text()
    names = set(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==", lock, re.MULTILINE))
    assert {"kubernetes", "prometheus-client", "ortools"} <= names
    assert names & {"ray", "pyarrow", "duckdb", "grpcio", "textual", "pytest", "ruff"} == set()


def test_that_of_a_node_s_collector_has_the_driver_s_binding_and_no_client_of_kubernetes() -> None:
    lock = (ROOT / "requirements" / "collector.txt").read_text()
    names = set(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==", lock, re.MULTILINE))
    assert {"nvidia-ml-py", "grpcio", "protobuf", "prometheus-client"} <= names
    assert names & {"kubernetes", "ray", "pyarrow", "duckdb", "textual", "pytest", "ruff"} == set()


ONLY_OF_THE_LOCK = """
import importlib.metadata, re, sys
from pathlib import Path

names = set(re.findall(r"^([a-z0-9._-]+)", Path(sys.argv[1]).read_text(), re.MULTILINE))
roots = {
    root for root, owners in importlib.metadata.packages_distributions().items()
    if not names & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
} - {"cost_models", "flopwise", "planner", "scheduler", "telemetry"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in roots:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from telemetry import collect, nvml, owners, podresources, store, watch
from telemetry.exporter import Exporter
from telemetry.nvml.library import binding
import flopwise.__main__, grpc, google.protobuf
binding()
assert podresources.PodResources(Path("/none")).held().failure
"""


def test_with_what_its_lock_has_the_collector_finds_all_that_it_imports() -> None:
    lock = ROOT / "requirements" / "collector.txt"
    done = subprocess.run(
        [sys.executable, "-c", ONLY_OF_THE_LOCK, str(lock)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_exists_and_is_sent_to_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    assert not ignored(source)


def test_each_room_is_copied() -> None:
    assert {"cost_models", "telemetry", "planner", "scheduler", "flopwise"} <= set(copied())


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", "tests/conftest.py", "planner/__pycache__/x.pyc"]
)
def test_nothing_else_is_sent(path: str) -> None:
    assert ignored(path)
