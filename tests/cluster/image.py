"""The two images of the node that runs pods: one to hold a pod open, and Ray on a small Debian.

They are made here, without a registry: Debian's packages by mmdebstrap, Ray and what it needs as
``requirements/all.txt`` pins it, by hash. Kept in the cache, in a folder named by all of that.
``ensure`` makes them.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster import build
from tests.cluster.build import CannotBuild, Say, alone, cache_folder, to_standard_error

LOCK = Path(__file__).parents[2] / "requirements" / "all.txt"
SUITE, PYTHON = "bookworm", "3.11"  # the Debian, and the Python it has
WHEELS = ("2014", "_2_17", "_2_28", "_2_34")
PACKAGES = ("python3", "wget", "ca-certificates", "procps")  # wget: KubeRay's probes call it
COMPILE = "python3 -m compileall -q --invalidation-mode unchecked-hash"
PAUSE = "localhost/flopwise-pause:test"
RAY = "localhost/flopwise-ray:test"
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def locked_for(name: str, lock: str) -> list[str]:
    """The entries of a lock that install ``name`` and all it needs, each with its hashes.

    The lock says under each entry who wanted it (``# via``): so what ``name`` needs is found from
    the lock alone. Entries for other systems and Pythons have markers, which pip reads itself.
    """
    entries: dict[str, str] = {}
    wanted_by: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", lock.strip()):
        key = re.split(r"[\[=]", entry, maxsplit=1)[0]
        lines = [line for line in entry.splitlines() if not line.lstrip().startswith("#")]
        entries[key] = entries.get(key, "") + "\n".join(lines) + "\n"
        said = " ".join(re.findall(r"^\s*# +(?:via +)?(\S.*)$", entry, re.MULTILINE))
        names = {re.split(r"[\[ ]", word)[0] for word in said.split()}
        wanted_by.setdefault(key, set()).update(names)
    needed: set[str] = set()
    found = {name}
    while found:
        needed |= found
        found = {key for key, by in wanted_by.items() if by & needed} - needed
    return [entries[key] for key in sorted(needed)]


def folder() -> Path:
    """Where the images are, or will be."""
    how = [inspect.getsource(function) for function in (_install_ray, _debian, pack)]
    what = [
        SUITE,
        PYTHON,
        *WHEELS,
        *PACKAGES,
        COMPILE,
        PAUSE,
        RAY,
        repr(ENVIRONMENT),
        build.key_of("node"),
    ]
    text = "\n".join([*how, *what, *locked_for("ray", LOCK.read_text())])
    return cache_folder() / "images" / hashlib.sha256(text.encode()).hexdigest()[:12]


def ensure(say: Say = to_standard_error) -> Path:
    """Makes the images if they are missing; their folder, with ``pause.tar`` and ``ray.tar``."""
    made = folder()
    if made.is_dir():
        return made
    build.ensure("node", say=say)
    made.parent.mkdir(parents=True, exist_ok=True)
    with alone(cache_folder() / "images.lock", lambda: say("waiting for another's images")):
        if not made.is_dir():
            say("making the Ray image of the test cluster, once: about 2 minutes")
            _make(made)
            say("made the Ray image")
    return made


def _make(made: Path) -> None:
    for left in made.parent.glob(".making-*"):  # by one that was killed: we hold the lock
        shutil.rmtree(left)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=made.parent))
    try:
        pause = making / "pause"
        pause.mkdir()
        shutil.copy(build.path_of("pause"), pause / "pause")
        layer = making / "pause.layer"
        _run(making, "tar", "--numeric-owner", "-C", str(pause), "-cf", str(layer), ".")
        pack(making / "pause.tar", PAUSE, layer, ["/pause"], {})
        packages = making / "packages"
        _install_ray(packages)
        _debian(making / "ray.layer", packages)
        pack(making / "ray.tar", RAY, making / "ray.layer", [], ENVIRONMENT)
        for left in (pause, packages):
            shutil.rmtree(left)
        making.chmod(0o755)
        making.rename(made)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _install_ray(target: Path) -> None:
    """Ray's wheels for the image's Python, whatever Python runs this."""
    wanted = target.with_suffix(".txt")
    wanted.write_text("".join(locked_for("ray", LOCK.read_text())))
    # Wheels that the image's C library (2.36) can load: none made for a newer one.
    platforms = [f"--platform=manylinux{old}_{os.uname().machine}" for old in WHEELS]
    for_image = ["--python-version", PYTHON, "--only-binary=:all:", *platforms]
    _run(
        target.parent,
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--require-hashes", "-r", str(wanted), "--target", str(target), *for_image),
        *("--disable-pip-version-check", "--no-warn-script-location"),
    )
    for script in (target / "bin").iterdir():
        text = script.read_bytes()
        if text.startswith(b"#!") and b"python" in text.splitlines()[0]:
            script.write_bytes(b"\n".join([b"#!/usr/bin/python3", *text.split(b"\n")[1:]]))


def _debian(layer: Path, packages: Path) -> None:
    """A Debian with those Python packages in it, as one layer."""
    if shutil.which("mmdebstrap") is None:
        raise CannotBuild("no mmdebstrap, which makes the Ray image: apt install mmdebstrap")
    place = f'"$1/usr/local/lib/python{PYTHON}/dist-packages"'
    no_docs = [f"path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    _run(
        layer.parent,
        *("mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}"),
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt={option}" for option in no_docs),
        f"--customize-hook=mkdir -p {place} && cp -a {packages}/. {place}",
        f'--customize-hook=mv {place}/bin/* "$1/usr/local/bin/" && rmdir {place}/bin',
        '--customize-hook=ln -s python3 "$1/usr/bin/python"',
        # Compiled here, or by each container anew. By hash: a layer may keep no times.
        f'--customize-hook=chroot "$1" {COMPILE} /usr/local/lib/python{PYTHON}/dist-packages',
        *(SUITE, str(layer.with_suffix(".tar"))),
    )
    layer.with_suffix(".tar").rename(layer)


def _run(scratch: Path, *command: str) -> None:
    """Runs a command that keeps its temporary files there, where they go whatever happens."""
    done = subprocess.run(
        [*build.dying_with_us(), "nice", "-n", "5", *command],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotBuild(f"the Ray image is not made: {command[0]}: {done.stderr[-2000:]}")


def pack(
    image: Path, name: str, layer: Path, entrypoint: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Packs one layer as an archive that ``ctr images import`` reads, and removes its file."""
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {
            "Env": [f"{key}={value}" for key, value in environment.items()],
            **({"Entrypoint": list(entrypoint)} if entrypoint else {}),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(image, "w") as archive:
        for file, value in (("manifest.json", manifest), ("config.json", config)):
            text = json.dumps(value).encode()
            entry = tarfile.TarInfo(file)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        archive.add(layer, "layer.tar")
    layer.unlink()
