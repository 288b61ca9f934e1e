"""What dcgm-exporter and Prometheus say, as samples with owners."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from telemetry import scrape
from telemetry.exporter import Exporter, Snapshot, serve
from telemetry.owners import Basis, Share
from telemetry.samples import GpuSample, Health
from telemetry.scrape import Prometheus, ScrapeError, exposition, read_exporter, read_metric
from telemetry.uses import NOBODY, Owner, Use
from tests.telemetry.prometheus import prometheus

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
MIB = 2**20
# As dcgm-exporter writes it.
WHO = (
    'gpu="0",UUID="GPU-a",pci_bus_id="00000000:01:00.0",device="nvidia0",'
    'modelName="NVIDIA H100 80GB HBM3",Hostname="node-1",DCGM_FI_DRIVER_VERSION="580.65.06",'
    'container="main",namespace="ml",pod="train-0"'
)
PAGE = f"""# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{{{WHO}}} 87
DCGM_FI_DEV_FB_USED{{{WHO}}} 40000
DCGM_FI_DEV_FB_FREE{{{WHO}}} 41000
DCGM_FI_DEV_FB_RESERVED{{{WHO}}} 559
DCGM_FI_DEV_POWER_USAGE{{{WHO}}} 412.5
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{WHO}}} 9876543210500
DCGM_FI_DEV_SM_CLOCK{{{WHO}}} 1755
DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{WHO}}} 0.85
DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{WHO}}} 0.41
DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL{{{WHO}}} 0
"""
READ = Use(
    sample=GpuSample(
        time=NOW,
        node="node-1",
        uuid="GPU-a",
        name="NVIDIA H100 80GB HBM3",
        utilisation_fraction=0.87,  # of 87 %; the engine's 0.85 is another figure
        memory_used_bytes=40_000 * MIB,
        memory_total_bytes=81_559 * MIB,  # used + free + reserved
        memory_reserved_bytes=559 * MIB,
        power_watts=412.5,
        energy_joules=9_876_543_210.5,  # of mJ
        sm_clock_mhz=1755,
        tensor_active_fraction=0.41,  # a fraction already
    ),
    owner=Owner(namespace="ml", pod="train-0"),
)


def one(text: str) -> Use:
    (found,) = exposition(text, NOW)
    return found


def gauge(labels: str, value: object = 50, name: str = "DCGM_FI_DEV_GPU_UTIL") -> str:
    return f"{name}{{{labels}}} {value}\n"


def test_a_page_of_dcgm_exporter_is_a_sample_with_its_pod() -> None:
    assert one(PAGE) == READ


def test_the_host_is_known_by_either_spelling() -> None:
    assert one(PAGE.replace("Hostname=", "hostname=")) == READ


def test_without_a_host_the_instance_is_the_node() -> None:
    found = one(gauge('UUID="GPU-a",instance="10.0.0.7:9400"'))
    assert found.sample.node == "10.0.0.7"


def test_missing_series_are_unknown_and_no_error() -> None:
    found = one(gauge('UUID="GPU-a"', 12, "DCGM_FI_DEV_POWER_USAGE")).sample
    assert (found.power_watts, found.utilisation_fraction, found.memory_total_bytes) == (
        12,
        None,
        None,
    )


def test_exported_labels_are_the_workloads_and_the_plain_ones_the_exporters() -> None:
    busy = 'UUID="GPU-a",pod="nvidia-abc",namespace="gpu",exported_pod="t",exported_namespace="ml"'
    idle = 'UUID="GPU-b",pod="nvidia-abc",namespace="gpu"'
    first, second = exposition(gauge(busy) + gauge(idle), NOW)
    assert first.owner == Owner(namespace="ml", pod="t")
    assert second.owner == NOBODY


def test_an_idle_gpu_is_not_its_exporters() -> None:
    assert one(gauge('UUID="GPU-a",pod="nvidia-dcgm-exporter-x7k"')).owner == NOBODY


def test_a_job_of_slurm_is_the_owner_where_there_is_no_pod() -> None:
    assert one(gauge('UUID="GPU-a",hpc_job="4711"')).owner == Owner(job="4711")


def test_mig_instances_have_their_gpus_uuid_and_their_own_id() -> None:
    part = 'UUID="GPU-a",GPU_I_ID="{}",GPU_I_PROFILE="3g.40gb"'
    text = "".join(gauge(part.format(n), n / 10, "DCGM_FI_PROF_GR_ENGINE_ACTIVE") for n in (1, 2))
    first, second = (use.sample for use in exposition(text, NOW))
    assert (first.uuid, first.parent_uuid, first.mig_profile) == ("GPU-a/gi1", "GPU-a", "3g.40gb")
    assert (second.uuid, second.utilisation_fraction) == ("GPU-a/gi2", 0.2)
    assert (first.gpu_instance_id, second.gpu_instance_id) == (1, 2)


def test_labels_are_known_by_either_spelling() -> None:
    usual = 'UUID="GPU-a",GPU_I_ID="3",GPU_I_PROFILE="1g.10gb",modelName="A",pod="p",namespace="n"'
    other = (
        'gpu_uuid="GPU-a",gpu_i_id="3",gpu_i_profile="1g.10gb",model_name="A",pod_name="p",'
        'pod_namespace="n"'
    )
    assert one(gauge(other)) == one(gauge(usual))
    assert one(gauge(other)).sample.mig_profile == "1g.10gb"


def test_an_instances_id_that_is_no_number_names_it_all_the_same() -> None:
    found = one(gauge('UUID="GPU-a",GPU_I_ID="seven"')).sample
    assert (found.uuid, found.gpu_instance_id) == ("GPU-a/giseven", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DCGM_FI_DEV_GPU_UTIL", "NaN"),
        ("DCGM_FI_DEV_GPU_UTIL", "+Inf"),
        ("DCGM_FI_DEV_GPU_UTIL", "-1"),
        ("DCGM_FI_DEV_GPU_UTIL", "140"),
        ("DCGM_FI_PROF_SM_ACTIVE", "87"),
        ("DCGM_FI_DEV_FB_USED", "2147483632"),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "9223372036854775794"),
        ("DCGM_FI_DEV_POWER_USAGE", "140737488355328"),
        ("DCGM_FI_DEV_GPU_TEMP", "-300"),
    ],
)
def test_values_that_a_gpu_cannot_have_are_left_out(name: str, value: str) -> None:
    assert exposition(gauge('UUID="GPU-a"', value, name), NOW) == ()


def test_a_fraction_that_is_measured_a_little_above_one_is_one() -> None:
    found = one(gauge('UUID="GPU-a"', 1.004, "DCGM_FI_PROF_SM_ACTIVE"))
    assert found.sample.sm_active_fraction == 1.0


def test_text_of_others_is_one_line_and_not_endless() -> None:
    found = one(gauge(f'UUID="GPU-a",pod="a\\nb{"x" * 999}"')).owner
    assert found.pod.startswith("a?b")
    assert len(found.pod) == 256


def test_a_series_without_a_uuid_tells_of_no_gpu() -> None:
    assert exposition(gauge('gpu="0"'), NOW) == ()


# --- over HTTP


class Web:
    """Answers everything with one status and body, after a wait; keeps what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.wait_seconds = 200, b"", 0.0
        self.location, self.trickle_seconds = "", 0.0
        self.asked: list[tuple[str, str, str | None]] = []
        self.closed = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                length = int(self.headers.get("Content-Length", 0))
                form = self.rfile.read(length).decode()
                web.asked.append((self.path, form, self.headers.get("Authorization")))
                time.sleep(web.wait_seconds)
                self.send_response(web.status)
                if web.location:
                    self.send_header("Location", web.location)
                self.end_headers()
                while web.trickle_seconds and not web.closed.wait(web.trickle_seconds):
                    self.wfile.write(b"# a\n")
                self.wfile.write(web.body)

            do_POST = do_GET  # noqa: N815  # the library's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name for it
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


def test_an_exporters_page_is_read_over_http(web: Web) -> None:
    web.body = PAGE.encode()
    assert read_exporter(f"{web.url}/metrics", NOW) == (READ,)


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"nothing\nhere", "status 404: nothing.here, allowed: 200"),
        (200, b"<html>", "allowed: metrics in Prometheus' format"),
        (200, b"\xff\xfe", "allowed: metrics in Prometheus' format"),
        (200, b"\n\n  <p>\nDCGM_FI_DEV_GPU_UTIL 7", "found '  <p>', allowed: metrics in"),
        (200, b"# x\nDCGM_FI_DEV_GPU_UTIL{UUID= 7", "allowed: metrics in Prometheus' format"),
        (200, b'# x\nDCGM_FI_DEV_GPU_UTIL{UUID="a"} seven', "allowed: metrics in Prom"),
    ],
)
def test_what_is_no_page_of_metrics_is_refused(
    web: Web, status: int, body: bytes, why: str
) -> None:
    web.status, web.body = status, body
    with pytest.raises(ScrapeError, match=why):
        read_exporter(web.url, NOW)


@pytest.mark.parametrize("name", ["speed", "ray_speed", "speed_total", "ray_speed_total"])
def test_a_metric_is_read_by_the_name_that_its_job_gave_it(web: Web, name: str) -> None:
    page = f'# TYPE {name} gauge\n{name}{{job="sft",rank="0"}} 5\n{name}{{rank="1"}} 7\nspeedy 1\n'
    web.body = page.encode()
    assert read_metric(web.url, "speed") == {
        (("job", "sft"), ("rank", "0")): 5.0,
        (("rank", "1"),): 7.0,
    }


def test_of_two_spellings_of_one_counter_one_counts(web: Web) -> None:
    web.body = b"ray_work_total 5\nray_work 5\n"
    assert read_metric(web.url, "work") == {(): 5.0}


def test_a_metric_that_is_not_there_is_named(web: Web) -> None:
    web.body = PAGE.encode()
    with pytest.raises(ScrapeError, match="found no metric 'speed', allowed: one that the page"):
        read_metric(web.url, "speed")


def test_an_answer_that_is_too_long_is_not_read(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "ANSWER_BYTES_MOST", 100)
    web.body = PAGE.encode()
    with pytest.raises(ScrapeError, match="more than 100 bytes"):
        read_exporter(web.url, NOW)


def test_a_source_that_does_not_answer_in_time_is_given_up(web: Web) -> None:
    web.wait_seconds = 5
    with pytest.raises(ScrapeError, match="timed out"):
        read_exporter(web.url, NOW, timeout_seconds=0.1)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "/metrics"])
def test_only_addresses_of_the_web_are_read(url: str) -> None:
    with pytest.raises(ScrapeError, match="allowed: http:// or https://"):
        read_exporter(url, NOW)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[]", "allowed: an answer of Prometheus' API"),
        (b"not JSON", "allowed: an answer of Prometheus' API"),
        (b'{"status": "error", "error": "too many samples"}', "too many samples"),
        (b'{"status": "success", "data": {"result": [{"metric": {}}]}}', "allowed: series"),
        (b'{"status": "success", "data": {"result": [7]}}', "allowed: series"),
        (
            b'{"status": "success", "data": {"result": [{"metric": {}, "value": [1e99, "1"]}]}}',
            "allowed: series",
        ),
    ],
)
def test_what_is_no_answer_of_prometheus_is_refused(web: Web, body: bytes, why: str) -> None:
    web.body = body
    with pytest.raises(ScrapeError, match=why):
        Prometheus(url=web.url).now()


def test_a_token_is_sent_and_never_shown(web: Web) -> None:
    web.body = b'{"status": "success", "data": {"result": []}}'
    source = Prometheus(url=f"{web.url}/", token="secret")
    assert source.now(NOW) == ()
    path, form, token = web.asked[0]
    assert (path, token) == ("/api/v1/query", "Bearer secret")
    assert f"time={NOW.timestamp()}" in form
    assert "secret" not in repr(source)


def test_a_long_time_is_asked_for_in_parts_without_a_step_lost_or_twice(web: Web) -> None:
    web.body = b'{"status": "success", "data": {"result": []}}'
    # 1,201 steps of a minute: 500, 500 and 201.
    until = NOW + timedelta(minutes=1200)
    list(Prometheus(url=web.url).between(NOW, until, timedelta(minutes=1)))
    forms = [
        dict(part.split("=") for part in form.split("&"))
        for path, form, _ in web.asked
        if path == "/api/v1/query_range" and "flopwise_gpu_info" in form
    ]
    spans = [
        (float(f["start"]) - NOW.timestamp(), float(f["end"]) - NOW.timestamp()) for f in forms
    ]
    assert spans == [(0, 499 * 60), (500 * 60, 999 * 60), (1000 * 60, 1200 * 60)]


def test_teams_come_from_kube_state_metrics_where_it_tells_labels(web: Web) -> None:
    labels = {"namespace": "ml", "pod": "train-0"}
    series = [
        {"metric": {"__name__": "DCGM_FI_DEV_GPU_UTIL", "UUID": "GPU-a", **labels}}
        | {"value": [NOW.timestamp(), "50"]},
        {
            "metric": {
                "__name__": "kube_pod_labels",
                "label_flopwise_dev_team": "nlp",
                "label_flopwise_dev_job": "sft",
                **labels,
            },
            "value": [NOW.timestamp(), "1"],
        },
    ]
    web.body = json.dumps({"status": "success", "data": {"result": series}}).encode()
    (found,) = Prometheus(url=web.url).now()
    assert found.owner == Owner(namespace="ml", pod="train-0", team="nlp", job="sft")


# --- a real Prometheus, which has scraped us

SAMPLES = (
    replace(READ.sample, memory_total_bytes=81_559 * MIB, clique="c.1"),
    GpuSample(time=NOW, node="node-1", uuid="GPU-b", name="NVIDIA L4", utilisation_fraction=0.5),
    GpuSample(
        time=NOW,
        node="node-1",
        uuid="MIG-1",
        name="NVIDIA A100",
        parent_uuid="GPU-c",
        mig_profile="3g.20gb",
        gpu_instance_id=2,
        sm_active_fraction=0.3,
    ),
)
ONE = Owner(namespace="ml", pod="one", job="sft", team="nlp")
OTHER = Owner(namespace="ml", pod="other")
SHARES = (
    Share(uuid="GPU-a", owner=ONE, share_fraction=0.75, basis=Basis.SM),
    Share(uuid="GPU-a", owner=OTHER, share_fraction=0.25, basis=Basis.SM),
    Share(uuid="GPU-b", owner=OTHER, share_fraction=1.0, basis=Basis.WHOLE),
)


@pytest.mark.parametrize("honor_labels", [True, False])
@pytest.mark.parametrize("dcgm_compatible", [True, False])
def test_what_we_export_comes_back_through_a_real_prometheus(
    tmp_path: Path, *, honor_labels: bool, dcgm_compatible: bool
) -> None:
    exporter = Exporter(interval_seconds=3600, dcgm_compatible=dcgm_compatible)
    exporter.take(Snapshot(time=datetime.now(UTC), samples=SAMPLES, shares=SHARES))
    served = serve(exporter, 0, "127.0.0.1")
    try:
        with prometheus(tmp_path, served.port, honor_labels=honor_labels) as found:
            found.wait("flopwise_gpu_up")
            source = Prometheus(url=found.url)
            until = datetime.now(UTC)
            steps = source.between(until, until + timedelta(seconds=2), timedelta(seconds=1))
            at_once, ranged = source.now(), [use for part in steps for use in part]
    finally:
        served.close()
    expected = [
        (SAMPLES[0], ONE, 0.75),
        (SAMPLES[0], OTHER, 0.25),
        (SAMPLES[1], OTHER, 1.0),
        (SAMPLES[2], NOBODY, 1.0),
    ]
    told = [(replace(u.sample, time=NOW), u.owner, u.share_fraction) for u in at_once]
    assert told == expected
    times = sorted({use.sample.time for use in ranged})
    assert [(at - times[0]).total_seconds() for at in times] == list(range(len(times)))
    assert len(ranged) == len(times) * len(expected) > 0


# --- an enemy


def test_an_answer_as_deep_as_a_well_is_refused(web: Web) -> None:
    web.body = b"[" * 200_000
    with pytest.raises(ScrapeError, match="allowed: an answer of Prometheus' API"):
        Prometheus(url=web.url).now()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e308", "-5"])
def test_numbers_that_are_none_are_left_out_of_an_answer(web: Web, value: str) -> None:
    metric = {"__name__": "flopwise_gpu_utilisation_ratio", "uuid": "GPU-a"}
    result = [{"metric": metric, "value": [NOW.timestamp(), value]}]
    web.body = json.dumps({"status": "success", "data": {"result": result}}).encode()
    assert Prometheus(url=web.url).now() == ()


def test_a_trickle_ends_with_the_time_limit(web: Web) -> None:
    web.trickle_seconds = 0.05
    began = time.monotonic()
    with pytest.raises(ScrapeError, match="timed out while it was answering"):
        read_exporter(web.url, NOW, timeout_seconds=0.5)
    assert time.monotonic() - began < 30


def test_a_redirect_takes_no_token_to_another_host_nor_out_of_the_web(web: Web) -> None:
    other = Web()
    other.body = PAGE.encode()
    web.status, web.location = 302, f"{other.url}/metrics"
    try:
        assert scrape._get(web.url, {}, 10.0, token="secret") == PAGE.encode()
        assert [token for _, _, token in web.asked] == ["Bearer secret"]
        assert [token for _, _, token in other.asked] == [None]
    finally:
        other.close()
    for location in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        web.location = location
        with pytest.raises(ScrapeError, match=r"302|redirect"):
            read_exporter(web.url, NOW)


def test_a_page_of_a_hundred_megabytes_costs_no_more_than_its_size(web: Web) -> None:
    filler = b'other_metric{a="b"} 1\n' * 2**16  # 1.4 MB of what nobody asked for
    web.body = PAGE.encode() + filler * 70
    assert read_exporter(web.url, NOW) == (READ,)


def test_what_our_collector_thinks_of_a_gpu_is_read() -> None:
    page = "\n".join(
        f'flopwise_gpu_health{{uuid="GPU-a",state="{state}"}} {int(state == "cordon")}'
        for state in ("fine", "watch", "cordon")
    )
    (use,) = exposition(f'flopwise_gpu_power_watts{{uuid="GPU-a"}} 70\n{page}\n', NOW)
    assert use.sample.health is Health.CORDON
