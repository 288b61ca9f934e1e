"""What an API server refuses, and what keeps it from answering, as types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.kube.api import mapping_of

MESSAGE_CHARACTERS = 4000


class KubeError(Exception):
    """A request that did not succeed.

    ``status`` is the HTTP status (0: no answer), ``reason`` Kubernetes' word for it
    (``NotFound``, ``Conflict``, ``Expired``, …), ``details`` the fields at fault as the server
    names them.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.details: Mapping[str, Any] = details or {}


class Unconfigured(KubeError):
    """There is no cluster to talk to: no kubeconfig, no such context, not in a pod."""


class Unreachable(KubeError):
    """No answer: refused, cut, timed out. Whether the request took effect is not known."""


class ServerFailed(KubeError):
    """The server could not (5xx), or its answer is none. Whether it took effect is not known."""


class TooMany(KubeError):
    """The server asks for patience (429); nothing took effect."""

    def __init__(self, message: str, *, retry_after_seconds: float, **known: Any) -> None:
        super().__init__(message, **known)
        self.retry_after_seconds = retry_after_seconds


class Refused(KubeError):
    """Not logged in, or not allowed (401, 403)."""


class Terminating(Refused):
    """Nothing new is taken in a namespace that is being deleted (403)."""


class Invalid(KubeError):
    """The server does not take the object (400, 413, 415, 422); the message names the field."""


class NotFound(KubeError):
    """No such object, or no such kind (404)."""


class Conflict(KubeError):
    """Somebody else changed it first (409)."""


class AlreadyExists(Conflict):
    """An object of this name is there (409)."""


class Gone(KubeError):
    """That resource version or page is too old (410): list anew."""


def refusal(url: str, status: int, data: bytes, headers: Mapping[str, str]) -> KubeError:
    """The error that an answer of ``status`` with the body ``data`` is."""
    said = mapping_of(data)
    if said is None:
        said = {"message": f"{url}: HTTP {status}: {data[:200].decode(errors='replace')}"}
    return error_of(status, said, headers)


def error_of(status: int, said: Mapping[str, Any], headers: Mapping[str, str]) -> KubeError:
    """The error that a ``Status`` object tells of."""
    reason = str(said.get("reason") or "")
    message = _line(str(said.get("message") or f"HTTP {status}"))
    details = said.get("details")
    details = details if isinstance(details, dict) else {}
    known: dict[str, Any] = {"status": status, "reason": reason, "details": details}
    if status == 429:
        return TooMany(message, retry_after_seconds=_patience(details, headers), **known)
    if status == 403 and _ends_with_its_namespace(details):
        return Terminating(message, **known)
    if status == 500 and message.startswith(_NO_SUCH_FIELD):
        return Invalid(message, **known)
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists(message, **known)
    if status >= 500:
        return ServerFailed(message, **known)
    return _BY_STATUS.get(status, KubeError)(message, **known)


def _ends_with_its_namespace(details: Mapping[str, Any]) -> bool:
    causes = details.get("causes")
    return isinstance(causes, list) and any(
        isinstance(each, dict) and each.get("reason") == "NamespaceTerminating" for each in causes
    )


# How server-side apply says that a field is unknown: with the status of a failure of its own.
_NO_SUCH_FIELD = "failed to create typed patch object"
_BY_STATUS: Mapping[int, type[KubeError]] = {
    400: Invalid,
    401: Refused,
    403: Refused,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


def _line(text: str) -> str:
    """On one line, and no longer than somebody would read."""
    line = " ".join(text[: 2 * MESSAGE_CHARACTERS].split())
    return line if len(line) <= MESSAGE_CHARACTERS else f"{line[:MESSAGE_CHARACTERS]}…"


def _patience(details: Mapping[str, Any], headers: Mapping[str, str]) -> float:
    """Seconds that a 429 asks to wait: by its header, else its body, else one."""
    stated = headers.get("Retry-After") or details.get("retryAfterSeconds")
    try:
        return max(0.1, float(stated or 1))
    except (TypeError, ValueError):
        return 1.0
