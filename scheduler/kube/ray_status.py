"""How a Ray job does, by Ray's own word, where KubeRay cannot ask for it: by way of the API server.

The token of a Ray is made from a key of the operator's, so that no Secret has ever to be read: the
operator that is started next makes the same.
"""

from __future__ import annotations

import hashlib
import hmac

from scheduler.kube.api import Raw, mapping_of
from scheduler.kube.client import Kube
from scheduler.kube.errors import KubeError
from scheduler.kube.launch import Launch
from scheduler.kube.phases import job_info, job_info_request

HEADER = "x-ray-authorization"  # the API server keeps ``Authorization`` for itself


def token_of(key: bytes, launch: Launch) -> str:
    """The token of a launch's Ray: another for each job, the same each time."""
    said = f"{launch.namespace}/{launch.name}/{launch.uid}".encode()
    return hmac.new(key, said, hashlib.sha256).hexdigest()


def asked(kube: Kube, ray_job: Raw, token: str) -> str:
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; empty where Ray does not say (yet)."""
    at = job_info_request(ray_job)
    if at is None:
        return ""
    service, port, path = at
    headers = {HEADER: f"Bearer {token}"}
    try:
        said = kube.proxied(ray_job["metadata"]["namespace"], service, port, path, headers)
    except KubeError:
        return ""
    return job_info(mapping_of(said) or {})
