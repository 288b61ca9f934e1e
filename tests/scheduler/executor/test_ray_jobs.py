"""The REST client against a small server that answers as Ray's dashboard does."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scheduler.executor.decide import RayJob
from scheduler.executor.errors import BadRequestError, RayRefusedError, RayUnreachableError
from scheduler.executor.ray_jobs import RayJobs, package, token_from
from scheduler.executor.records import RunStatus

TOKEN = "s3cret"


@dataclass
class Dashboard:
    """Jobs and packages by name; takes one token; ``delay_seconds`` before each answer."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    delay_seconds: float = 0.0
    url: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        match method, path.strip("/").split("/"):
            case "POST", ["api", "jobs"]:
                return self.submit(json.loads(body))
            case "GET", ["api", "jobs"]:
                return 200, json.dumps([*self.jobs.values(), {"type": "DRIVER"}])
            case "POST", ["api", "jobs", name, "stop"]:
                return (200, "{}") if name in self.jobs else (404, f"Job {name} does not exist")
            case "GET", ["api", "jobs", _, "logs"]:
                return 200, json.dumps({"logs": "hello\n"})
            case "PUT", ["api", "packages", "gcs", name]:
                self.packages[name] = body
                return 200, ""
            case _:
                return 200, "{}"

    def submit(self, body: dict[str, Any]) -> tuple[int, str]:
        name = body["submission_id"]
        if name in self.jobs:
            trace = 'Traceback\n  File "x"\n'
            return (
                500,
                f"{trace}ValueError: Job with submission_id {name} already exists. Use.\n.\n",
            )
        if body["runtime_env"].get("bad"):
            return 400, 'Traceback\n  File "x"\nTypeError: unknown field bad\n'
        self.jobs[name] = {
            **body,
            "type": "SUBMISSION",
            "status": "PENDING",
            "start_time": 1_000,
            "end_time": None,
            "driver_exit_code": None,
            "message": None,
        }
        return 200, "{}"


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    board = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            time.sleep(board.delay_seconds)
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            known = self.headers["Authorization"] == f"Bearer {TOKEN}"
            code, text = (401, "no") if not known else board.answer(self.command, self.path, body)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = serve  # noqa: N815  # the names that http.server looks for

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    board.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield board
    server.shutdown()
    server.server_close()


def client(board: Dashboard, token: str = TOKEN) -> RayJobs:
    return RayJobs(url=board.url, token=token, timeout_seconds=2)


def submit(jobs: RayJobs, name: str = "a", **runtime_env: object) -> None:
    jobs.submit(
        submission_id=name,
        entrypoint="run",
        resources={"flopwise-node-n0": 8000},
        runtime_env=runtime_env,
        metadata={},
    )


def test_a_job_is_handed_over_with_its_resources_and_no_cpu(dashboard: Dashboard) -> None:
    submit(client(dashboard))
    sent = dashboard.jobs["a"]
    assert sent["entrypoint_resources"] == {"flopwise-node-n0": 8000}
    assert sent["entrypoint_num_cpus"] == 0


def test_a_second_hand_over_of_the_same_name_is_as_good_as_the_first(dashboard: Dashboard) -> None:
    submit(client(dashboard))
    submit(client(dashboard))
    assert list(dashboard.jobs) == ["a"]


def test_a_refusal_is_the_last_line_of_rays_traceback(dashboard: Dashboard) -> None:
    with pytest.raises(RayRefusedError, match=r"refused: TypeError: unknown field bad$"):
        submit(client(dashboard), bad=1)


def test_jobs_are_told_in_our_words_and_drivers_are_left_out(dashboard: Dashboard) -> None:
    submit(client(dashboard))
    dashboard.jobs["a"] |= {"status": "FAILED", "end_time": 3_500, "driver_exit_code": 3}
    dashboard.jobs["a"]["message"] = "failed, last logs:\nsecret of the job"
    assert client(dashboard).jobs() == {
        "a": RayJob(
            status=RunStatus.FAILED,
            start=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
            end=datetime(1970, 1, 1, 0, 0, 3, 500_000, tzinfo=UTC),
            exit_code=3,
        )
    }


def test_stopping_what_is_gone_is_no_error(dashboard: Dashboard) -> None:
    client(dashboard).stop("a")


def test_a_wrong_token_is_said_and_not_shown(dashboard: Dashboard) -> None:
    with pytest.raises(RayRefusedError, match="does not take our token") as caught:
        client(dashboard, "wr0ng").jobs()
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in repr(client(dashboard, "wr0ng"))


def test_nobody_there_is_unreachable() -> None:
    jobs = RayJobs(url="http://127.0.0.1:9", timeout_seconds=2)
    assert not jobs.ready()
    with pytest.raises(RayUnreachableError, match="does not answer"):
        jobs.jobs()


def test_a_ray_that_takes_too_long_is_unreachable(dashboard: Dashboard) -> None:
    dashboard.delay_seconds = 1.0
    jobs = RayJobs(url=dashboard.url, token=TOKEN, timeout_seconds=0.2)
    with pytest.raises(RayUnreachableError, match="timed out"):
        jobs.jobs()


def test_a_local_folder_travels_as_a_package(dashboard: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("")
    submit(client(dashboard), working_dir=str(tmp_path))
    [(name, data)] = dashboard.packages.items()
    assert dashboard.jobs["a"]["runtime_env"] == {"working_dir": f"gcs://{name}"}
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == ["train.py"]


def test_a_package_has_the_same_bytes_for_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("2")
    first = package(tmp_path)
    (tmp_path / "b").touch()
    assert package(tmp_path) == first


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match=r"working_dir: found .*nowhere, allowed: a folder"):
        package(tmp_path / "nowhere")


def test_the_token_of_a_given_ray_is_found_where_ray_looks(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("from-file\n")
    assert token_from({"RAY_AUTH_TOKEN": "direct"}) == "direct"
    assert token_from({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "t")}) == "from-file"
    assert token_from({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}) == ""
