"""``flopwise telemetry serve`` as a process, over the fake driver and a kubelet's socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from telemetry import store
from tests.telemetry.fake_kubelet import FakeKubelet, container, pod

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 60.0
SERVE = (sys.executable, "-m", "flopwise", "telemetry", "serve")


@contextmanager
def serving(driver: Path, folder: Path, *arguments: str, **settings: str) -> Iterator[str]:
    """The command; gives the address that it says."""
    here = ("--port", "0", "--address", "127.0.0.1", "--interval", "0.2s")
    command = [*SERVE, *here, *arguments]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("KUBERNETES_")}
    env = plain | {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(driver), **settings}
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert line.startswith("metrics at "), line + process.stderr.read()
            yield line.removeprefix("metrics at ").strip()
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
    assert process.returncode == 130


def text_with(url: str, part: str) -> str:
    """The metrics, as soon as they have ``part``."""
    until = time.monotonic() + PATIENCE_SECONDS
    text = ""
    while time.monotonic() < until:
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = str(answer.read().decode())
        if part in text:
            return text
        time.sleep(0.05)
    raise AssertionError(f"no {part!r} in\n{text}")


def test_serve_says_what_each_gpu_does_and_for_whom_and_keeps_it(
    driver: Path, tmp_path: Path
) -> None:
    with FakeKubelet(tmp_path / "kubelet.sock") as kubelet:
        kubelet.pods = [pod("ml", "one", container("c", {"nvidia.com/gpu": ["GPU-00000000"]}))]
        options = ["--dcgm-compatible", "--store", "ring.db", "--kubelet-socket"]
        options += [str(kubelet.socket), "--proc", str(tmp_path)]
        with serving(driver, tmp_path, *options, NODE_NAME="node-1") as url:
            text = text_with(url, "flopwise_gpu_up 1.0")
            with urllib.request.urlopen(url.replace("/metrics", "/healthz"), timeout=30) as answer:
                assert answer.read() == b"ok\n"
    assert 'flopwise_gpu_utilisation_ratio{uuid="GPU-00000001"} 0.87' in text
    assert "flopwise_gpu_info{clique=" in text
    assert (
        'flopwise_gpu_owner_share_ratio{job_name="",model="",namespace="ml",pod="one",project="",'
        'team="",uuid="GPU-00000000"} 1.0'
    ) in text
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("DCGM_FI_DEV_GPU_UTIL{") and 'UUID="GPU-00000000"' in line
    ]
    assert 'pod="one"' in line
    assert line.endswith(" 87.0")
    kept = {(use.sample.uuid, use.owner.pod) for use in store.read(tmp_path / "ring.db")}
    assert kept == {("GPU-00000000", "one"), ("GPU-00000001", "")}


def test_a_driver_that_is_lost_ends_the_series_until_it_is_back(
    driver: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.write_text("")
    with serving(driver, tmp_path, FAKE_NVML_STATE=str(state)) as url:
        assert "GPU-00000000" in text_with(url, "flopwise_gpu_up 1.0")
        state.write_text("gpu * dying 1\n")
        assert "GPU-00000000" not in text_with(url, "flopwise_gpu_up 0.0")
        state.write_text("")
        assert "GPU-00000000" in text_with(url, "flopwise_gpu_up 1.0")


def test_serve_without_a_driver_fails_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SERVE, "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("flopwise: no NVIDIA driver here")


def test_a_port_that_is_taken_is_named(driver: Path, tmp_path: Path) -> None:
    with serving(driver, tmp_path) as url:
        port = url.rsplit(":", 1)[1].partition("/")[0]
        done = subprocess.run(
            [*SERVE, "--port", port, "--address", "127.0.0.1"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(driver)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"127.0.0.1 {port}: Address already in use" in done.stderr
