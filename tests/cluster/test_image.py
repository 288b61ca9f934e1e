"""What goes into the images of the real node: Ray as the lock pins it, layers that check out."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

from tests.cluster.image import LOCK, locked_for, pack

SMALL = """\
alpha==1.0 \\
    --hash=sha256:aa
    # via
    #   -c requirements/dev.txt
    #   ray
beta==2.0 ; sys_platform == 'win32' \\
    --hash=sha256:bb
    # via alpha
gamma==3.0 \\
    --hash=sha256:cc
    # via flopwise (pyproject.toml)
ray[default]==4.0 \\
    --hash=sha256:dd
    # via flopwise (pyproject.toml)
"""


def test_a_library_comes_with_what_it_needs_and_what_that_needs_and_nothing_else() -> None:
    # ray needs alpha, alpha needs beta; gamma is another's.
    entries = locked_for("ray", SMALL)
    assert [entry.split("=")[0] for entry in entries] == ["alpha", "beta", "ray[default]"]
    assert entries[1] == "beta==2.0 ; sys_platform == 'win32' \\\n    --hash=sha256:bb\n"


def test_the_real_lock_has_ray_with_hashes_and_not_the_solver() -> None:
    names = {entry.split("==")[0] for entry in locked_for("ray", LOCK.read_text())}
    assert {"ray", "aiohttp", "grpcio", "click"} <= names
    assert names.isdisjoint({"ortools", "numba", "kubernetes", "plotly"})


def test_an_image_names_its_layer_by_the_hash_of_what_is_in_it(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.write_bytes(b"a layer" * 1000)
    digest = hashlib.sha256(b"a layer" * 1000).hexdigest()
    pack(tmp_path / "image.tar", "localhost/x:test", layer, ["/x"], {"A": "b"})
    assert not layer.exists()
    with tarfile.open(tmp_path / "image.tar") as archive:
        read = {name: archive.extractfile(name) for name in archive.getnames()}
        texts = {name: file.read() for name, file in read.items() if file}
    assert json.loads(texts["manifest.json"]) == [
        {"Config": "config.json", "RepoTags": ["localhost/x:test"], "Layers": ["layer.tar"]}
    ]
    config = json.loads(texts["config.json"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}"]
    assert config["config"] == {"Env": ["A=b"], "Entrypoint": ["/x"]}
    assert texts["layer.tar"] == b"a layer" * 1000
