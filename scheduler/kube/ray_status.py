"""How a Ray job does, by Ray's own word, where KubeRay cannot ask for it: by way of the API server.

The token of a Ray is made from a key of the operator's, so that no Secret has ever to be read: the
operator that is started next makes the same. The name of the Secret that has it bears its mark, so
that another key is another Secret: which of several keys a Ray was started with is known from its
object, and a Ray whose key is gone gets a token of the first key with its next start.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler.kube.api import Raw, mapping_of
from scheduler.kube.client import Kube
from scheduler.kube.errors import KubeError, Refused
from scheduler.kube.launch import Launch
from scheduler.kube.phases import job_info, job_info_request
from scheduler.kube.ray_objects import token_name, token_of_job

MARK_CHARACTERS = 8
SAYS_RAY = "authentication token"  # missing, or invalid: in what Ray answers
HEADER = "x-ray-authorization"  # the API server keeps ``Authorization`` for itself


def token_of(key: bytes, launch: Launch) -> str:
    """The token of a launch's Ray: another for each job, the same each time."""
    said = f"{launch.namespace}/{launch.name}/{launch.uid}".encode()
    return hmac.new(key, said, hashlib.sha256).hexdigest()


def marked(launch: Launch, token: str) -> Launch:
    """The launch, whose Secret is named after the token that it has."""
    mark = hashlib.sha256(token.encode()).hexdigest()[:MARK_CHARACTERS]
    return replace(launch, token_mark=mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What Ray answered."""

    word: str = ""  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; empty: it does not say (yet)
    refused: str = ""  # why it does not take our token; empty: it does, or was not reached
    mends: bool = False  # its next start has another Secret, which is ours


def heard(kube: Kube, ray_job: Raw, launch: Launch, keys: Sequence[bytes]) -> Heard:
    """How a Ray job does. ``keys``: those that its token may be of, the first one for new ones."""
    tokens = [token_of(key, launch) for key in keys]
    secrets = [token_name(marked(launch, token)) for token in tokens]
    named = token_of_job(ray_job)
    token = tokens[secrets.index(named)] if named in secrets else tokens[0]
    try:
        return Heard(word=asked(kube, ray_job, token))
    except Refused as error:
        if error.reason or SAYS_RAY not in str(error):
            return Heard()  # the API server's own word: it does not ask for us, or not there
        why = (
            f"its Ray does not take our token (HTTP {error.status}), so that nobody hears how it "
            f"does: it was started with that of Secret {named or 'of its own'}"
        )
        ours = named.startswith(token_name(launch))
        return Heard(refused=why, mends=ours and named != secrets[0])
    except KubeError:
        return Heard()


def asked(kube: Kube, ray_job: Raw, token: str) -> str:
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; empty where Ray does not say (yet).

    Raises `Refused` where it does not take the token, other `KubeError` where it does not answer.
    """
    at = job_info_request(ray_job)
    if at is None:
        return ""
    service, port, path = at
    headers = {HEADER: f"Bearer {token}"}
    said = kube.proxied(ray_job["metadata"]["namespace"], service, port, path, headers)
    return job_info(mapping_of(said) or {})
