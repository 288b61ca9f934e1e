"""Others' collectors as a source: dcgm-exporter's text, and what a Prometheus has kept.

A cluster that has them needs no second agent. Names, labels and units are dcgm-exporter's, or our
own exporter's, whose word counts where both tell of a GPU. What is missing is normal: profiling
figures need rights, and dcgm-exporter leaves out what its driver does not say.

- The host's label is ``Hostname`` up to dcgm-exporter 4.8, ``hostname`` after it; some of its
  series have ``gpu_uuid`` and ``model_name``, and its old names were ``pod_name`` and the like.
- Where a scrape does not honour labels, the workload is ``exported_pod``, and ``pod`` the exporter;
  where it does, an idle GPU still gets the exporter's own ``pod``.
- ``DCGM_FI_DEV_*_UTIL`` are percent, ``DCGM_FI_PROF_*`` fractions.
- A MIG instance has its GPU's UUID and an id of its own; its UUID is not told.

All of it is the text of others: it is bounded in size and time, and checked where it is read. The
door to Prometheus' client, for reading.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from telemetry.owners import JOBS, MODEL, PROJECT, TEAM, Pod, owner_of
from telemetry.plain import plain
from telemetry.samples import GpuSample, Health
from telemetry.uses import NOBODY, Owner, Use

CALL_SECONDS = 60.0
ANSWER_BYTES_MOST = 256 * 2**20
STEPS_MOST = 500  # of one query: an answer stays small, and below Prometheus' own limit of 11,000
MIB = 2**20
_NAME = re.compile(r"[{\s]")  # where a series' name ends
_LINE = re.compile(r"#|[a-zA-Z_:][a-zA-Z0-9_:]*(\{.*\})?\s+\S+")  # of a page
_EXPORTER = re.compile(r"dcgm-exporter|flopwise-telemetry")
_PERCENT, _PLAIN, _MHZ = 0.01, 1.0, 1e-6
_MILLISECOND = timedelta(milliseconds=1)


class ScrapeError(RuntimeError):
    """A source that gave nothing to use: its address, what was found and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One value of one series."""

    name: str
    labels: Mapping[str, str]
    time: datetime  # aware
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metric:
    field: str
    scale: float = 1.0
    is_count: bool = False
    most: float = math.inf
    blank: float = 2.0**53  # from here on it is no value, in the unit of the source


def _fraction(name: str, scale: float) -> _Metric:
    return _Metric(field=name, scale=scale, most=1.0)


def _count(name: str, scale: float = 1.0) -> _Metric:
    return _Metric(field=name, scale=scale, is_count=True)


_DCGM = {
    "DCGM_FI_DEV_GPU_UTIL": _fraction("utilisation_fraction", _PERCENT),
    "DCGM_FI_DEV_MEM_COPY_UTIL": _fraction("memory_utilisation_fraction", _PERCENT),
    "DCGM_FI_DEV_FB_USED": _count("memory_used_bytes", MIB),
    "DCGM_FI_DEV_FB_FREE": _count("free_bytes", MIB),
    "DCGM_FI_DEV_FB_RESERVED": _count("memory_reserved_bytes", MIB),
    "DCGM_FI_DEV_POWER_USAGE": _Metric(field="power_watts"),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": _Metric(field="energy_joules", scale=1e-3),
    "DCGM_FI_DEV_GPU_TEMP": _Metric(field="temperature_celsius"),
    "DCGM_FI_DEV_MEMORY_TEMP": _Metric(field="memory_temperature_celsius"),
    "DCGM_FI_DEV_SM_CLOCK": _count("sm_clock_mhz"),
    "DCGM_FI_DEV_MEM_CLOCK": _count("memory_clock_mhz"),
    "DCGM_FI_DEV_XID_ERRORS": _count("last_xid"),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": _fraction("engine_active_fraction", _PLAIN),
    "DCGM_FI_PROF_SM_ACTIVE": _fraction("sm_active_fraction", _PLAIN),
    "DCGM_FI_PROF_SM_OCCUPANCY": _fraction("sm_occupancy_fraction", _PLAIN),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": _fraction("tensor_active_fraction", _PLAIN),
    "DCGM_FI_PROF_DRAM_ACTIVE": _fraction("dram_active_fraction", _PLAIN),
}
_OURS = {
    "flopwise_gpu_utilisation_ratio": _fraction("utilisation_fraction", _PLAIN),
    "flopwise_gpu_memory_utilisation_ratio": _fraction("memory_utilisation_fraction", _PLAIN),
    "flopwise_gpu_memory_used_bytes": _count("memory_used_bytes"),
    "flopwise_gpu_memory_total_bytes": _count("memory_total_bytes"),
    "flopwise_gpu_memory_reserved_bytes": _count("memory_reserved_bytes"),
    "flopwise_gpu_power_watts": _Metric(field="power_watts"),
    "flopwise_gpu_power_average_watts": _Metric(field="power_average_watts"),
    "flopwise_gpu_power_limit_watts": _Metric(field="power_limit_watts"),
    "flopwise_gpu_energy_joules_total": _Metric(field="energy_joules"),
    "flopwise_gpu_temperature_celsius": _Metric(field="temperature_celsius"),
    "flopwise_gpu_memory_temperature_celsius": _Metric(field="memory_temperature_celsius"),
    "flopwise_gpu_sm_clock_hertz": _count("sm_clock_mhz", _MHZ),
    "flopwise_gpu_memory_clock_hertz": _count("memory_clock_mhz", _MHZ),
    "flopwise_gpu_last_xid": _count("last_xid"),
    "flopwise_gpu_sm_active_ratio": _fraction("sm_active_fraction", _PLAIN),
    "flopwise_gpu_sm_occupancy_ratio": _fraction("sm_occupancy_fraction", _PLAIN),
    "flopwise_gpu_tensor_active_ratio": _fraction("tensor_active_fraction", _PLAIN),
    "flopwise_gpu_dram_active_ratio": _fraction("dram_active_fraction", _PLAIN),
    "flopwise_gpu_tensor_flops_per_second": _Metric(field="tensor_tflops", scale=1e-12),
}
_INFO = "flopwise_gpu_info"
_SHARE = "flopwise_gpu_owner_share_ratio"
_HEALTH = "flopwise_gpu_health"
NAMES = (*_DCGM, *_OURS, _INFO, _SHARE, _HEALTH)
# DCGM marks what it does not know by the highest numbers of 32 bits, and by 2^47.
_DCGM = {
    name: replace(one, blank=2.0**47 if one.field == "energy_joules" else 0x7FFFFFF0)
    for name, one in _DCGM.items()
}
_IDENTITY = ("node", "name", "parent_uuid", "mig_profile", "gpu_instance_id", "clique")
_OWNER = {
    **{name: name for name in ("namespace", "pod", "team", "project", "model")},
    "job_name": "job",
}


def exposition(text: str, now: datetime) -> tuple[Use, ...]:
    """The GPUs of an exporter's page, by node and UUID, at ``now`` (aware).

    Raises ``ValueError`` where it is none.
    """
    return uses(
        Series(name=one.name, labels=one.labels, time=now, value=float(one.value))
        for one in _samples(text, NAMES)
    )


def _samples(text: str, names: Iterable[str]) -> Iterator[Any]:
    """The samples of those names; other lines are as long as they like and cost nothing.

    Without the lines that tell types, the client takes every name as it stands.
    """
    wanted = frozenset(names)
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and not _LINE.match(lines[0]):
        raise ValueError(f"{lines[0][:40]!r}")
    found = "\n".join(line for line in lines if _NAME.split(line, maxsplit=1)[0] in wanted)
    for family in text_string_to_metric_families(found + "\n"):
        yield from family.samples


def read_exporter(
    url: str, now: datetime, *, timeout_seconds: float = CALL_SECONDS
) -> tuple[Use, ...]:
    """One reading of the page of a dcgm-exporter, or of ours. Raises ``ScrapeError``."""
    with _page(url, timeout_seconds) as text:
        return exposition(text, now)


def read_metric(
    url: str, name: str, *, timeout_seconds: float = CALL_SECONDS
) -> dict[tuple[tuple[str, str], ...], float]:
    """The values of one metric of a page by their labels, in order; Ray's names for it count too.

    Ray puts ``ray_`` before a metric of its user, and ``_total`` behind a counter.
    Raises ``ScrapeError``, also where there is none.
    """
    spellings = [f"{front}{name}{end}" for front in ("", "ray_") for end in ("", "_total")]
    with _page(url, timeout_seconds) as text:
        found = list(_samples(text, spellings))
    spelt = next((one for one in spellings if any(s.name == one for s in found)), None)
    if spelt is None:
        raise ScrapeError(f"{url}: found no metric {name!r}, allowed: one that the page has")
    return {
        tuple(sorted((plain(key), plain(value)) for key, value in one.labels.items())): one.value
        for one in found
        if one.name == spelt
    }


@contextmanager
def _page(url: str, timeout_seconds: float) -> Iterator[str]:
    body = _get(url, {}, timeout_seconds)
    try:
        yield body.decode()
    except ValueError as error:
        raise ScrapeError(f"{url}: found {error}, allowed: metrics in Prometheus' format") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A Prometheus, Thanos or Mimir, by the address under which ``/api/v1`` lies."""

    url: str
    token: str = field(default="", repr=False)
    timeout_seconds: float = CALL_SECONDS

    def now(self, time: datetime | None = None) -> tuple[Use, ...]:
        """The GPUs at one instant; by default, of this moment. Raises ``ScrapeError``."""
        at = {} if time is None else {"time": str(time.timestamp())}
        data = self._ask("query", {"query": _selector(NAMES), **at})
        return uses(self._series(data), self._pods(at))

    def between(
        self, since: datetime, until: datetime, step: timedelta
    ) -> Iterator[tuple[Use, ...]]:
        """The GPUs at each ``step`` from ``since`` up to and with ``until``, some steps at a time.

        A step before which nothing was scraped has none: Prometheus would repeat what it heard last
        for five minutes, and a gap is a gap. Raises ``ScrapeError``.
        """
        start = since
        while start <= until:
            end = min(until, start + (STEPS_MOST - 1) * step)
            steps = {
                "start": str(start.timestamp()),
                "end": str(end.timestamp()),
                "step": str(step.total_seconds()),
            }
            found = [self._ask("query_range", {"query": q, **steps}) for q in _scraped_in(step)]
            pods = self._pods({"time": str(end.timestamp())})
            yield uses((one for result in found for one in self._series(result)), pods)
            start = end + step

    def _pods(self, at: Mapping[str, str]) -> dict[tuple[str, str], Owner]:
        """Whom pods work for, where kube-state-metrics tells their labels; that is optional."""
        query = {"query": f"kube_pod_labels{{{_kept(TEAM)}!=''}}", **at}
        found = self._series(self._ask("query", query))
        return dict(_labelled(one.labels) for one in found)

    def _ask(self, what: str, parameters: Mapping[str, str]) -> Any:
        url = f"{self.url.rstrip('/')}/api/v1/{what}"
        body = _get(url, parameters, self.timeout_seconds, self.token)
        try:
            answer = json.loads(body)
            if answer["status"] != "success":
                raise ScrapeError(f"{url}: {plain(str(answer.get('error')))}")
            return answer["data"]["result"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ScrapeError(
                f"{url}: found {body[:40]!r}, allowed: an answer of Prometheus' API"
            ) from None

    def _series(self, result: Any) -> Iterator[Series]:
        try:
            for one in result:
                labels = one["metric"]
                for seconds, value in one.get("values") or [one["value"]]:
                    yield Series(
                        name=labels.get("__name__", ""),
                        labels=labels,
                        time=datetime.fromtimestamp(seconds, UTC),
                        value=float(value),
                    )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ScrapeError(f"{self.url}: found {why}, allowed: series with values") from None


def uses(
    series: Iterable[Series], pods: Mapping[tuple[str, str], Owner] | None = None
) -> tuple[Use, ...]:
    """Series as the GPUs that they tell of, by time, node and UUID, with their owners.

    Values that a GPU can't have are left out. ``pods``: who they work for, by namespace and name.
    """
    told = _Told(series)
    return tuple(use for key in sorted(told.measures) for use in told.uses(key, pods or {}))


_Key = tuple[datetime, str]  # and the UUID, or what stands for it


class _Told:
    """The series, put together by GPU and instant."""

    def __init__(self, series: Iterable[Series]) -> None:
        self.measures: dict[_Key, dict[str, float | int]] = {}
        self._identity: dict[str, dict[str, str]] = {}
        self._labels: dict[_Key, Mapping[str, str]] = {}
        self._shares: dict[_Key, dict[Owner, float]] = {}
        self._health: dict[_Key, Health] = {}
        found = list(series)
        ours = [one for one in found if one.name in _OURS or one.name in (_INFO, _SHARE, _HEALTH)]
        for one in ours:
            self._add_ours(one)
        known = {uuid for _, uuid in self.measures} | {
            one.labels.get("parent_uuid", "") for one in ours
        }
        # An exporter that honours no labels has the workload's below another name, everywhere.
        self._is_renamed = any("exported_pod" in one.labels for one in found)
        for one in found:
            if one.name in _DCGM and _uuid(one.labels) not in known:
                self._add_dcgm(one)

    def _add_ours(self, one: Series) -> None:
        uuid = plain(one.labels.get("uuid", ""))
        if not uuid:
            return
        if one.name == _INFO:
            self._identity[uuid] = {
                name: plain(one.labels.get(f"exported_{name}") or one.labels.get(name, ""))
                for name in _IDENTITY
            }
            self.measures.setdefault((one.time, uuid), {})
        elif one.name == _SHARE:
            if 0 <= one.value <= 1:
                owner = Owner(**{f: _owner_label(one.labels, label) for label, f in _OWNER.items()})
                self._shares.setdefault((one.time, uuid), {})[owner] = one.value
        elif one.name == _HEALTH:
            if one.value == 1.0 and (state := one.labels.get("state", "")) in list(Health):
                self._health[one.time, uuid] = Health(state)
        else:
            self._measure((one.time, uuid), _OURS[one.name], one.value)

    def _add_dcgm(self, one: Series) -> None:
        gpu = _uuid(one.labels)
        if not gpu:
            return
        instance = _first(one.labels, "GPU_I_ID", "gpu_i_id", "gpu_instance_id")
        uuid = f"{gpu}/gi{instance}" if instance else gpu
        self._identity[uuid] = {
            "node": _node(one.labels),
            "name": _first(one.labels, "modelName", "model_name", "modelname"),
            "parent_uuid": gpu if instance else "",
            "mig_profile": _first(one.labels, "GPU_I_PROFILE", "gpu_i_profile"),
            "gpu_instance_id": instance,
        }
        key = one.time, uuid
        self._measure(key, _DCGM[one.name], one.value)
        if key in self.measures:
            self._labels[key] = one.labels

    def _measure(self, key: _Key, metric: _Metric, value: float) -> None:
        # Fractions are measured over intervals that are not quite equal: 1.002 is 1.
        if not (value < metric.blank and value * metric.scale <= metric.most * 1.01):
            return
        if not value >= (-273 if metric.field.endswith("celsius") else 0):
            return
        scaled = min(value * metric.scale, metric.most)
        kept = round(scaled) if metric.is_count else scaled
        self.measures.setdefault(key, {}).setdefault(metric.field, kept)

    def uses(self, key: _Key, pods: Mapping[tuple[str, str], Owner]) -> Iterator[Use]:
        """The rows of one GPU and instant."""
        sample = self._sample(key)
        shares = self._shares.get(key)
        if shares is None:
            yield Use(sample=sample, owner=self._owner(key, pods))
            return
        for owner, fraction in shares.items():
            yield Use(sample=sample, owner=owner, share_fraction=fraction)

    def _sample(self, key: _Key) -> GpuSample:
        time, uuid = key
        identity: dict[str, Any] = {
            name: text for name, text in self._identity.get(uuid, {}).items() if text
        }
        measures: dict[str, Any] = dict(self.measures[key])
        free, active = (
            measures.pop("free_bytes", None),
            measures.pop("engine_active_fraction", None),
        )
        if free is not None and "memory_used_bytes" in measures:
            reserved = measures.get("memory_reserved_bytes", 0)
            measures["memory_total_bytes"] = free + measures["memory_used_bytes"] + reserved
        if active is not None:
            # Of MIG instances, utilisation is told by no other figure.
            measures.setdefault("utilisation_fraction", active)
        node, name = identity.pop("node", ""), identity.pop("name", "")
        number = identity.pop("gpu_instance_id", "")
        if re.fullmatch(r"[0-9]{1,9}", number):
            identity["gpu_instance_id"] = int(number)
        said = {**identity, **measures, "health": self._health.get(key)}
        return GpuSample(time=time, node=node, uuid=uuid, name=name, **said)

    def _owner(self, key: _Key, pods: Mapping[tuple[str, str], Owner]) -> Owner:
        labels = self._labels.get(key, {})
        prefix = "exported_" if self._is_renamed else ""
        pod = _first(labels, f"{prefix}pod", f"{prefix}pod_name")
        if not pod or _EXPORTER.search(pod):
            return Owner(job=job) if (job := plain(labels.get("hpc_job", ""))) else NOBODY
        namespace = _first(labels, f"{prefix}namespace", f"{prefix}pod_namespace")
        unlabelled = Owner(namespace=namespace, pod=pod, job=plain(labels.get("hpc_job", "")))
        return pods.get((namespace, pod), unlabelled)


def _first(labels: Mapping[str, str], *spellings: str) -> str:
    """The label that is there, however it is spelt."""
    return plain(next((labels[name] for name in spellings if labels.get(name)), ""))


def _uuid(labels: Mapping[str, str]) -> str:
    return _first(labels, "UUID", "uuid", "gpu_uuid")


def _node(labels: Mapping[str, str]) -> str:
    told = _first(labels, "Hostname", "hostname", "exported_node", "node", "kubernetes_node")
    return told or plain(labels.get("instance", "").rpartition(":")[0])


def _owner_label(labels: Mapping[str, str], name: str) -> str:
    found = plain(labels.get(f"exported_{name}") or labels.get(name, ""))
    return "" if name == "pod" and _EXPORTER.search(found) else found


def _kept(label: str) -> str:
    """A pod's label as kube-state-metrics spells it."""
    return "label_" + re.sub(r"\W", "_", label)


def _labelled(labels: Mapping[str, str]) -> tuple[tuple[str, str], Owner]:
    spelt = {name: plain(labels.get(_kept(name), "")) for name in (TEAM, PROJECT, MODEL, *JOBS)}
    key = (
        plain(labels.get("exported_namespace") or labels.get("namespace", "")),
        plain(labels.get("exported_pod") or labels.get("pod", "")),
    )
    return key, owner_of(Pod(namespace=key[0], name=key[1], uid="", labels=spelt))


def _scraped_in(step: timedelta) -> tuple[str, str]:
    """What was scraped in the last step, of figures, and of series whose labels tell an owner.

    Of several owners within a step the last counts: the others' series have ended, as Prometheus
    knows by its own marks.
    """
    # Up to Prometheus 2 a range has both its ends: the step before must not be in it.
    last = f"[{max(1, round(step / _MILLISECOND) - 1)}ms]"
    figures, owned = _selector(_OURS), _selector((*_DCGM, _INFO, _SHARE))
    return f"last_over_time({figures}{last})", f"{owned} and last_over_time({owned}{last})"


def _selector(names: Iterable[str]) -> str:
    return f'{{__name__=~"{"|".join(names)}"}}'


class _SameHost(urllib.request.HTTPRedirectHandler):
    """A token goes where it was meant to go, and nowhere else; and nothing leaves the web."""

    def redirect_request(self, request: Any, *rest: Any) -> Any:
        new = super().redirect_request(request, *rest)
        if new is None:
            return None
        there, here = urlsplit(new.full_url), urlsplit(request.full_url)
        if there.scheme not in _WEB:
            raise ValueError(f"found a redirect to {plain(new.full_url)}, allowed: http(s)://")
        if (there.scheme, there.netloc) != (here.scheme, here.netloc):
            new.remove_header("Authorization")
        return new


_WEB = ("http", "https")
_OPENER: Callable[..., Any] = urllib.request.build_opener(_SameHost()).open


def _get(url: str, parameters: Mapping[str, str], timeout_seconds: float, token: str = "") -> bytes:
    if urlsplit(url).scheme not in _WEB:
        raise ScrapeError(f"{url}: found no address of the web, allowed: http:// or https://")
    # By POST: a query over all names is longer than some proxies' limit on addresses.
    data = urlencode(parameters).encode() if parameters else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310  # checked above
    try:
        with _OPENER(request, timeout=timeout_seconds) as answer:
            body = _body(answer, time.monotonic() + timeout_seconds)
    except urllib.error.HTTPError as error:
        told = plain(error.read(1000).decode(errors="replace"))
        raise ScrapeError(f"{url}: found status {error.code}: {told}, allowed: 200") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ScrapeError(f"{url}: {getattr(error, 'reason', error)}") from None
    if len(body) > ANSWER_BYTES_MOST:
        raise ScrapeError(f"{url}: found more than {ANSWER_BYTES_MOST} bytes, allowed: less")
    return body


def _body(answer: Any, until_seconds: float) -> bytes:
    """All of it by then, up to just above what is allowed: a trickle has no end."""
    parts, size = [], 0
    while size <= ANSWER_BYTES_MOST and (part := answer.read1(_PART_BYTES)):
        parts.append(part)
        size += len(part)
        if time.monotonic() > until_seconds:
            raise TimeoutError("timed out while it was answering")
    return b"".join(parts)


_PART_BYTES = 2**20
