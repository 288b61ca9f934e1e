"""Where a cluster is, and who we are to it: the door to the ``kubernetes`` package.

The package reads the configuration: contexts, credentials and their renewal, TLS, proxies, the
service account of a pod.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from scheduler.kube import errors
from scheduler.kube.client import BURST, QPS, Kube

CONNECTIONS = 32
_IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def connect(
    *, context: str = "", kubeconfig: str = "", qps: float = QPS, burst: int = BURST
) -> Kube:
    """The cluster of a kubeconfig's context, or the one that this pod is in.

    ``kubeconfig``: a file (several, as ``KUBECONFIG`` has them); empty: ``KUBECONFIG``, else
    ``~/.kube/config``, else the service account of the pod.

    Raises:
        Unconfigured: there is none, or it cannot be used.
    """
    from kubernetes.client.rest import RESTClientObject

    stated = kubeconfig or os.environ.get("KUBECONFIG", "")
    paths = stated or str(Path("~/.kube/config").expanduser())
    if stated or context or Path(paths).is_file():
        with _as_unconfigured(paths):
            configuration, namespace = _from_files(paths, context)
    elif os.environ.get("KUBERNETES_SERVICE_HOST"):
        with _as_unconfigured("the pod's service account"):
            configuration, namespace = _from_pod()
    else:
        raise errors.Unconfigured(
            "no cluster: found no KUBECONFIG, no ~/.kube/config and no service account of a pod"
        )
    with _as_unconfigured(paths):
        configuration.connection_pool_maxsize = CONNECTIONS
        pool = RESTClientObject(configuration).pool_manager
    credentials = partial(_credentials, configuration)
    return Kube(
        pool, str(configuration.host), credentials, namespace=namespace, qps=qps, burst=burst
    )


def _credentials(configuration: Any) -> dict[str, str]:
    """The headers that say who we are; what has run out is renewed."""
    with _as_unconfigured("the credentials"):
        found = configuration.auth_settings().values()
        headers = {str(each["key"]): str(each["value"]) for each in found}
    if not all(text.isascii() and text.isprintable() for text in headers.values()):
        raise errors.Unconfigured("the credentials: found a token with characters of no token")
    return headers


def _from_pod() -> tuple[Any, str]:
    from kubernetes.client import Configuration
    from kubernetes.config import load_incluster_config

    configuration = Configuration()
    load_incluster_config(configuration)
    return configuration, (_IN_POD / "namespace").read_text().strip()


def _from_files(paths: str, context: str) -> tuple[Any, str]:
    """The configuration, and the context's namespace."""
    from kubernetes.client import Configuration
    from kubernetes.config import list_kube_config_contexts, load_kube_config

    known, active = list_kube_config_contexts(paths)
    if context and context not in {each["name"] for each in known}:
        allowed = ", ".join(sorted(each["name"] for each in known))
        raise errors.Unconfigured(f"{paths}: found no context {context!r}, allowed: {allowed}")
    configuration = Configuration()
    with _nothing_unsaid(paths):
        load_kube_config(paths, context=context or None, client_configuration=configuration)
    if not str(configuration.host).startswith(("http://", "https://")):
        raise errors.Unconfigured(f"{paths}: server: found {str(configuration.host)[:100]!r}")
    chosen = next((each for each in known if each["name"] == context), active)
    return configuration, str((chosen.get("context") or {}).get("namespace") or "default")


@contextmanager
def _nothing_unsaid(paths: str) -> Iterator[None]:
    """The package only logs that a command for credentials failed, and would go on without any."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    listener = Listener(logging.ERROR)
    logging.getLogger().addHandler(listener)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(listener)
    if told:
        raise errors.Unconfigured(f"{paths}: {'; '.join(told)}")


@contextmanager
def _as_unconfigured(where: str) -> Iterator[None]:
    try:
        yield
    except errors.KubeError:
        raise
    except Exception as error:  # noqa: BLE001  # the package raises whatever a wrong file leads to
        raise errors.Unconfigured(f"{where}: {' '.join(str(error).split())}") from None
