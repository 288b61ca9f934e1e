"""The door to Ray's jobs: its REST interface over plain HTTP.

Nothing of Ray is imported, so the client starts at once and runs where Ray is not installed.
Every call has a time-out. The token goes out as a header and is shown nowhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scheduler.executor.decide import RayJob
from scheduler.executor.errors import BadRequestError, RayRefusedError, RayUnreachableError
from scheduler.executor.records import RunStatus

CALL_SECONDS = 15.0
PACKAGE_BYTES_MOST = 100 * 2**20  # Ray keeps packages in the head's memory
_RAY_SETS_UP = r"[-\d]+ [:,\d]+\s+INFO job_manager\.py:\d+ -- Runtime env is setting up"
_EARLIEST_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
# Our own head, or one reached by a tunnel: never through the proxy of the web.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJobs:
    """The jobs of one Ray, by its dashboard's address (``http://host:port``)."""

    url: str
    token: str = field(default="", repr=False)
    timeout_seconds: float = CALL_SECONDS

    def ready(self) -> bool:
        """Whether Ray answers, and takes our token. Raises `RayRefusedError` where it does not."""
        try:
            self._call("GET", "/api/version")
        except RayUnreachableError:
            return False
        return True

    def submit(
        self,
        *,
        submission_id: str,
        entrypoint: str,
        resources: Mapping[str, float],
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
    ) -> None:
        """Hand a job to Ray. A job that it already has is left as it is, and is no error."""
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "entrypoint_num_cpus": 0,  # the plan's resources are the limit, not Ray's CPUs
            "entrypoint_resources": dict(resources),
            "runtime_env": self._packed(runtime_env),
            "metadata": dict(metadata),
        }
        try:
            self._call("POST", "/api/jobs/", json.dumps(body).encode())
        except RayRefusedError as error:
            if f"{submission_id} already exists" not in str(error):
                raise

    def jobs(self) -> dict[str, RayJob]:
        """All submitted jobs that this Ray remembers, by submission id."""
        found = json.loads(self._call("GET", "/api/jobs/"))
        return {j["submission_id"]: _job(j) for j in found if j["type"] == "SUBMISSION"}

    def stop(self, submission_id: str) -> None:
        """Ask for a job to be stopped; one that has ended, or is unknown, is left alone."""
        try:
            self._call("POST", f"/api/jobs/{quote(submission_id, safe='')}/stop")
        except RayRefusedError as error:
            if "does not exist" not in str(error):
                raise

    def log(self, submission_id: str) -> str:
        """What a job has written so far."""
        answer = json.loads(self._call("GET", f"/api/jobs/{quote(submission_id, safe='')}/logs"))
        return own_lines(str(answer["logs"]), submission_id)

    def _packed(self, runtime_env: Mapping[str, Any]) -> dict[str, Any]:
        """``runtime_env`` with a local ``working_dir`` replaced by the package made of it."""
        packed = dict(runtime_env)
        folder = str(packed.get("working_dir", ""))
        if folder and "://" not in folder:
            data = package(Path(folder))
            name = f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:32]}.zip"
            self._call("PUT", f"/api/packages/gcs/{name}", data)
            packed["working_dir"] = f"gcs://{name}"
        return packed

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(  # noqa: S310  # our address, or the user's own
            self.url + path, method=method, data=body, headers=headers
        )
        try:
            with _OPENER.open(request, timeout=self.timeout_seconds) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise RayRefusedError(_refusal(self.url, error)) from None
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            raise RayUnreachableError(f"Ray at {self.url} does not answer: {reason}") from None


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403):
        return f"Ray at {url} does not take our token"
    lines = error.read().decode(errors="replace").strip(" .\n").splitlines()
    return f"Ray at {url} refused: {lines[-1].strip() if lines else error.reason}"


def _job(data: Mapping[str, Any]) -> RayJob:
    code = data["driver_exit_code"]
    told = str(data["message"] or "").splitlines()
    return RayJob(
        status=RunStatus(data["status"]),
        start=_time(data["start_time"]),
        end=_time(data["end_time"]),
        exit_code=code,
        message=told[0] if told and code is None else "",
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def package(folder: Path) -> bytes:
    """``folder`` as a zip file: the same bytes for the same files.

    Raises `BadRequestError` for what is no folder or is too large to send.
    """
    if not folder.is_dir():
        raise BadRequestError(f"runtimeEnv.working_dir: found {folder}, allowed: a folder or a URI")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts)
    if sum(p.stat().st_size for p in files) > PACKAGE_BYTES_MOST:
        most = PACKAGE_BYTES_MOST // 2**20
        raise BadRequestError(f"runtimeEnv.working_dir: {folder} is larger than {most} MiB")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(str(path.relative_to(folder)), _EARLIEST_ZIP_TIME)
            entry.external_attr = path.stat().st_mode << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def own_lines(log: str, submission_id: str) -> str:
    """``log`` without what Ray puts in it: not always first, for Ray may be slower than the job.

    >>> own_lines("Running entrypoint for job a-1: echo hi\\nhi\\n", "a-1")
    'hi\\n'
    """
    told = rf"(?:Running entrypoint for job {re.escape(submission_id)}: |{_RAY_SETS_UP}).*\n?"
    return re.sub(told, "", log)


def token_from(environment: Mapping[str, str]) -> str:
    """The token for a Ray that is not ours, found where Ray itself looks; empty for none."""
    if token := environment.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path(os.path.expanduser("~/.ray/auth_token"))  # noqa: PTH111  # HOME may be unset: expanduser does not raise
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
