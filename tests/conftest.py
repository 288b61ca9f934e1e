"""What every test shares: repeatable examples, the split over workers, the fake NVIDIA driver."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: a busy machine is no bug. Derandomised: the same commit gives the same verdict.
settings.register_profile("flopwise", deadline=None, derandomize=True)
settings.load_profile("flopwise")

# Each has a worker of its own, for as long as it takes; they wait more than they compute, and begin
# first, so that others take the cores meanwhile. One machine has one `deep` cluster.
APART = ("deep", "cluster", "ray", "browser")
CLUSTERS = ("deep", "cluster")
CLUSTER_SECONDS = 300  # for a test's own work; what it asks for may have to be built first


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--soak``: for hours rather than minutes."""
    parser.addoption(
        "--soak", action="store_true", help="Kill, cut and stop things a hundred times."
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With xdist, a file's tests share a worker; so do all that need Ray, a browser, a cluster."""
    for item in items:
        _keep_together(item, _apart(item) or str(item.path))
        if _apart(item) in CLUSTERS and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(CLUSTER_SECONDS, func_only=True))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """The longest first: what is begun last is what the others wait for."""
    if apart := _apart(item):
        return APART.index(apart)
    return len(APART) + (item.get_closest_marker("slow") is None)


def _apart(item: pytest.Item) -> str:
    """Which of `APART` a test needs; "" for none."""
    return next((name for name in APART if item.get_closest_marker(name)), "")


def _keep_together(item: pytest.Item, group: str) -> None:
    """Puts a test into a group, all of whose tests go to one worker.

    xdist tells its scheduler by the end of a test's id. It writes that (3.8) where pytest 9.2 no
    longer looks, so that every test would be a group of its own: there, we write it.
    """
    item.add_marker(pytest.mark.xdist_group(group))
    is_worker = getattr(item.config.option, "loadgroup", False)
    if is_worker and item.parent is not None and hasattr(item, "_id"):
        item._id = item.parent.id.child(f"{item.name}@{group}")


BuildDriver = Callable[..., Path]


@pytest.fixture(scope="session")
def build_driver(tmp_path_factory: pytest.TempPathFactory) -> BuildDriver:
    """Compiles the fake driver, with the compiler's flags, and gives the folder it lies in."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the fake driver: apt install gcc libc6-dev")
    source = Path(__file__).parent / "telemetry" / "fake_nvml" / "fake_nvml.c"
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Werror"]

    def build(*flags: str) -> Path:
        library = tmp_path_factory.mktemp("driver") / "libnvidia-ml.so.1"
        as_library = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", str(library)]
        command = [compiler, *warnings, *flags, *as_library, str(source)]
        subprocess.run(command, check=True, timeout=60)
        return library.parent

    return build


@pytest.fixture(scope="session")
def driver(build_driver: BuildDriver) -> Path:
    """The folder of a fake NVIDIA driver, for LD_LIBRARY_PATH."""
    return build_driver()
