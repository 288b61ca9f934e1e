"""Files to manifests, and every way in which a file can be wrong."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cost_models.architectures import Method
from planner.manifests.errors import ManifestErrors
from planner.manifests.read import Manifests, read
from planner.manifests.references import Origin

JOB = """
apiVersion: flopwise.dev/v1alpha1
kind: GpuJob
metadata: {name: sft}
spec:
  training: {model: llama-3.1-8b, tokens: 2.0e9}
"""
POOL = """
apiVersion: flopwise.dev/v1alpha1
kind: GpuPool
metadata: {name: h100}
spec: {accelerator: h100-sxm5-80gb, gpusPerNode: 8, nodes: 4}
"""
QUEUE = """
apiVersion: flopwise.dev/v1alpha1
kind: GpuQueue
metadata: {name: research}
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file in an empty working folder, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def errors(*paths: str | Path, **options: Any) -> list[str]:
    """What reading the paths is refused for."""
    with pytest.raises(ManifestErrors) as raised:
        read(paths, **options)
    lines = list(raised.value.errors)
    assert all(line.isprintable() for line in lines)
    assert str(raised.value).splitlines() == lines
    return lines


def job(name: str = "a", namespace: str = "default", **spec: object) -> dict[str, object]:
    """A small valid job, with fields of its spec set."""
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"task": {"hours": {"l4": 1}}} | spec,
    }


def queue(name: str, parent: str = "") -> dict[str, object]:
    return {
        "apiVersion": "flopwise.dev/v1alpha1",
        "kind": "GpuQueue",
        "metadata": {"name": name},
        "spec": {"parent": parent},
    }


def names(manifests: Manifests) -> list[str]:
    return [job.metadata.name for job in manifests.jobs]


def test_a_file_of_several_documents_is_read_in_order(write: Write) -> None:
    manifests = read([write("all.yaml", f"{POOL}---{QUEUE}---{JOB}---\n# nothing more\n")])
    assert [pool.metadata.name for pool in manifests.pools] == ["h100"]
    assert [queue.metadata.name for queue in manifests.queues] == ["research"]
    assert names(manifests) == ["sft"]
    assert manifests.origin(manifests.jobs[0]) == Origin("all.yaml", 3)


def test_what_is_not_stated_has_its_default(write: Write) -> None:
    spec = read([write("a.yaml", JOB)]).jobs[0].spec
    assert spec.training is not None
    assert (spec.training.method, spec.training.sequence_length) == (Method.FULL, 8192)
    assert (spec.priority, spec.preemptible, spec.deadline) == (0, True, None)


def test_json_is_an_object_a_list_or_a_kubernetes_list(write: Write) -> None:
    write("one.json", json.dumps(job("a")))
    write("some.json", json.dumps([job("b"), job("c")], indent=2))
    listed = {"apiVersion": "v1", "kind": "List", "items": [job("d"), job("e")]}
    write("list.json", json.dumps(listed))
    manifests = read(["one.json", "some.json", "list.json"])
    assert names(manifests) == ["a", "b", "c", "d", "e"]
    assert manifests.origin(manifests.jobs[4]) == Origin("list.json", 2)


def test_json_lines_are_a_manifest_each_and_blank_lines_are_none(write: Write) -> None:
    path = write("jobs.jsonl", f"{json.dumps(job('a'))}\n\n{json.dumps(job('b'))}\n")
    assert names(read([path])) == ["a", "b"]


def test_a_folder_is_read_to_its_depths_in_the_order_of_names(write: Write) -> None:
    write("all/z.yaml", JOB)
    write("all/b/b.json", json.dumps(job("b")))
    write("all/a.jsonl", json.dumps(job("a")))
    write("all/readme.md", "no manifest")
    assert names(read(["all"])) == ["a", "b", "sft"]


def test_a_file_given_twice_is_read_once(write: Write) -> None:
    path = write("all/a.yaml", JOB)
    assert names(read([path, "all", str(path)])) == ["sft"]


@pytest.mark.parametrize(
    "text",
    [
        JOB,
        json.dumps(job()),
        json.dumps([job()]),
        (
            "{apiVersion: flopwise.dev/v1alpha1, kind: "
            "GpuJob, metadata: {name: a}, spec: {task: {hours: {l4: 1}}}}"
        ),
    ],
    ids=["YAML", "an object of JSON", "a list of JSON", "YAML that looks like JSON"],
)
def test_standard_input_is_told_from_its_first_letters(text: str) -> None:
    manifests = read(["-"], stdin=io.StringIO(text))
    assert len(manifests.jobs) == 1
    assert manifests.origin(manifests.jobs[0]).file == "standard input"


def test_standard_input_takes_json_lines() -> None:
    text = f"{json.dumps(job('a'))}\n{json.dumps(job('b'))}\n"
    assert names(read(["-"], stdin=io.StringIO(text))) == ["a", "b"]


def test_what_a_cluster_adds_to_its_objects_is_passed_over(write: Write) -> None:
    live = job() | {"status": {"conditions": []}}
    live["metadata"] = {"name": "a", "uid": "4f", "resourceVersion": "7", "generation": 2}
    assert names(read([write("live.json", json.dumps(live))])) == ["a"]


def test_an_alias_is_read_as_the_id_it_stands_for(write: Write) -> None:
    text = POOL.replace("h100-sxm5-80gb", "H100")
    assert read([write("a.yaml", text)]).pools[0].spec.accelerator == "h100-sxm5-80gb"


def test_a_date_or_a_time_without_a_zone_is_utc(write: Write) -> None:
    path = write("a.yaml", f"{JOB}  deadline: 2026-12-03\n  due: 2026-12-02T12:00:00+02:00\n")
    spec = read([path]).jobs[0].spec
    assert spec.deadline == datetime(2026, 12, 3, tzinfo=UTC)
    assert spec.due == datetime(2026, 12, 2, 10, tzinfo=UTC)


def test_norway_is_a_country_and_not_false(write: Write) -> None:
    path = write("a.yaml", f"{JOB}  placement: {{jurisdictions: [NO, SE]}}\n")
    assert read([path]).jobs[0].spec.placement.jurisdictions == ("NO", "SE")


def test_flops_may_be_written_without_a_decimal_point(write: Write) -> None:
    text = JOB.replace("model: llama-3.1-8b, tokens: 2.0e9", "flops: 1e21")
    training = read([write("a.yaml", text)]).jobs[0].spec.training
    assert training is not None
    assert training.flops == 1e21


# -- what is refused


CASES = {
    "an unknown field, with the nearest": (
        JOB.replace("tokens", "tokns"),
        [
            (
                "spec.training.tokens: found nothing, allowed: a number above 0 (a model needs its "
                "tokens)"
            ),
            "spec.training.tokns: unknown field, nearest: tokens",
        ],
    ),
    "a field in the words of Python": (
        f"{JOB}  max_cost_usd: 5\n",
        ["spec.max_cost_usd: unknown field, nearest: maxCostUsd"],
    ),
    "a negative quantity": (
        JOB.replace("2.0e9", "-2"),
        ["spec.training.tokens: found -2, allowed: a number above 0"],
    ),
    "not a number": (
        JOB.replace("2.0e9", ".nan"),
        ["spec.training.tokens: found nan, allowed: a finite number"],
    ),
    "an infinite quantity": (
        JOB.replace("2.0e9", "1e999"),
        ["spec.training.tokens: found inf, allowed: a finite number"],
    ),
    "text for a whole number": (
        f'{JOB}  priority: "8"\n',
        ['spec.priority: found "8", allowed: a whole number'],
    ),
    "half a GPU": (
        JOB.replace("tokens:", "gpus: 2.5, tokens:"),
        ["spec.training.gpus: found 2.5, allowed: a whole number"],
    ),
    "true for a number": (
        f"{JOB}  maxCostUsd: true\n",
        ["spec.maxCostUsd: found true, allowed: a number"],
    ),
    "yes for true": (
        f"{JOB}  required: yes\n",
        ['spec.required: found "yes", allowed: true or false'],
    ),
    "an open set": (
        JOB.replace("tokens:", "method: Sft, tokens:"),
        ['spec.training.method: found "Sft", allowed: Pretrain, Full, Lora or Qlora'],
    ),
    "an unknown accelerator as a key": (
        JOB.replace("tokens:", "throughput: {quux: 1}, tokens:"),
        ['spec.training.throughput.quux: found "quux", which is no known accelerator'],
    ),
    "an accelerator under two of its names": (
        JOB.replace("tokens:", "throughput: {h100: 1, h100-sxm5-80gb: 2}, tokens:"),
        [
            (
                "spec.training.throughput: found a mapping, allowed: each accelerator once (two of "
                "these names are one)"
            )
        ],
    ),
    "no kind of work": (
        JOB.replace("training: {model: llama-3.1-8b, tokens: 2.0e9}", "priority: 1"),
        ["spec: found none of them, allowed: exactly one of training, inference, task"],
    ),
    "two kinds of work": (
        f"{JOB}  task: {{hours: {{l4: 1}}}}\n",
        ["spec: found training and task, allowed: exactly one of training, inference, task"],
    ),
    "a model and FLOPs": (
        JOB.replace("tokens:", "flops: 1e21, tokens:"),
        ["spec.training: found model and flops, allowed: exactly one of model, flops"],
    ),
    "a deadline before the start": (
        f"{JOB}  earliestStart: 2026-12-02\n  deadline: 2026-12-01\n",
        [
            (
                "spec.deadline: found 2026-12-01T00:00:00Z, allowed: later than earliestStart, "
                "2026-12-02T00:00:00Z"
            )
        ],
    ),
    "no time": (
        f"{JOB}  deadline: tomorrow\n",
        ['spec.deadline: found "tomorrow", allowed: a time such as 2026-12-01T00:00:00Z'],
    ),
    "a namespace where there is none": (
        POOL.replace("name: h100", "name: h100, namespace: x"),
        ["metadata.namespace: unknown field, nearest: name"],
    ),
    "another group's version": (
        JOB.replace("v1alpha1", "v1"),
        ['apiVersion: found "flopwise.dev/v1", allowed: flopwise.dev/v1alpha1'],
    ),
    "another kind": (
        JOB.replace("GpuJob", "RayJob"),
        ['kind: found "RayJob", allowed: GpuPool, GpuQueue, GpuJob'],
    ),
    "a window that ends before it begins, after one in order": (
        POOL.replace(
            "nodes: 4",
            "nodes: 4, availability: [{from: 2026-12-01, to: 2026-12-02, nodes: 3}, "
            "{from: 2026-12-05, to: 2026-12-04, nodes: 3}]",
        ),
        [
            (
                "spec.availability[1].to: found 2026-12-04T00:00:00Z, allowed: later than from, "
                "2026-12-05T00:00:00Z"
            )
        ],
    ),
    "a pool without its number of nodes": (
        POOL.replace(", nodes: 4", ""),
        ["spec.nodes: found nothing, and it is required in files"],
    ),
    "several at once": (
        f"{JOB}  priority: high\n  maxCostUsd: -1\n  queue: lost\n".replace("2.0e9", "0"),
        [
            'spec.priority: found "high", allowed: a whole number',
            "spec.maxCostUsd: found -1, allowed: 0 or more",
            "spec.training.tokens: found 0, allowed: a number above 0",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_a_wrong_document_is_refused_for(text: str, expected: list[str], write: Write) -> None:
    found = errors(write("a.yaml", text))
    assert [line.split("): ", 1)[-1].removeprefix("a.yaml: document 1: ") for line in found] == (
        expected
    )


def test_a_name_that_kubernetes_refuses_is_refused(write: Write) -> None:
    (line,) = errors(write("a.yaml", JOB.replace("name: sft", "name: SFT_1")))
    assert 'metadata.name: found "SFT_1", allowed: lower-case letters, digits' in line


def test_an_unknown_accelerator_is_refused_with_the_nearest_first(write: Write) -> None:
    (line,) = errors(write("a.yaml", POOL.replace("sxm5", "smx5")))
    assert 'found "h100-smx5-80gb", which is no known accelerator, nearest: h100-sxm5' in line


def test_an_unknown_model_is_refused_with_the_nearest_first(write: Write) -> None:
    (line,) = errors(write("a.yaml", JOB.replace("llama-3.1-8b", "lama-3.1-8b")))
    assert 'spec.training.model: found "lama-3.1-8b", which is no known ' in line
    assert ", nearest: llama-3.1-8b" in line


def test_an_error_names_file_document_kind_and_name(write: Write) -> None:
    path = write("all.yaml", f"{POOL}---{JOB.replace('2.0e9', '-2')}")
    assert errors(path) == [
        (
            "all.yaml: document 2 (GpuJob sft): spec.training.tokens: found -2, allowed: a number "
            "above 0"
        )
    ]


def test_all_files_are_read_before_any_error_is_told(write: Write) -> None:
    write("a.yaml", JOB.replace("2.0e9", "-2"))
    write("b.yaml", "a: [1,\n")
    write("d.yaml", "")
    found = errors("a.yaml", "b.yaml", "c.yaml", "d.yaml")
    assert [line.split(":")[0] for line in found] == ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]
    assert found[2:] == ["c.yaml: No such file or directory", "d.yaml: empty: no manifest in it"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "a: 1\na: 2\n", 'line 2, column 1: duplicate key "a"'),
        ("a.json", '{"a": 1, "a": 2}', 'duplicate key "a"'),
        ("a.json", '{"a": 1,\nx}', "line 2, column 1: not JSON: "),
        ("a.yaml", "a: !!python/object:os.system x\n", "line 1, column 4: tag "),
        ("a.yaml", "a: *b\n", 'line 1, column 4: alias "b" of nothing before it'),
        ("a.yaml", "? [a]\n: b\n", "line 1, column 3: a key that is not text"),
        ("a.yaml", "just words\n", "document 1: found text, allowed: a mapping of "),
        ("a.yaml", "---\n---\n", "empty: no manifest in it"),
        ("a.json", "[]", "empty: no manifest in it"),
        ("a.json", '"\\ud800"', "half of a surrogate pair, which is no character"),
    ],
)
def test_a_text_that_holds_no_manifest_is_refused_in_one_line(
    name: str, text: str, expected: str, write: Write
) -> None:
    found = errors(write(name, text))
    assert len(found) == 1
    assert found[0].startswith(f"{name}: {expected}")


def test_each_broken_line_of_json_lines_is_named(write: Write) -> None:
    lines = [json.dumps(job("a")), "{", json.dumps(job("b")), f"{json.dumps(job('c'))} x"]
    found = errors(write("a.jsonl", "\n".join(lines)))
    assert [line.split(": ")[1].split(",")[0] for line in found] == ["line 2", "line 4"]


def test_a_folder_without_manifests_is_refused(write: Write) -> None:
    write("docs/readme.md", "nothing")
    assert errors("docs") == ["docs: no manifest in it, allowed: .yaml, .yml, .json, .jsonl"]


def test_a_file_that_may_not_be_read_is_refused(write: Write) -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    assert errors("loop.yaml")[0].startswith("loop.yaml: ")


GARBAGE: dict[str, Callable[[], bytes]] = {
    "bytes.yaml": lambda: os.urandom(10_000_000),
    "bytes.jsonl": lambda: b"\xff" * 10_000_000,
    "words.yaml": lambda: b"lorem ipsum\n" * 800_000,
    "items.yaml": lambda: b"- a\n" * 2_500_000,
    "keys.yaml": lambda: b"".join(b"k%d: v\n" % i for i in range(800_000)),
    "documents.yaml": lambda: b"--- a\n" * 1_600_000,
    "deep.yaml": lambda: b"[" * 10_000_000,
    "deep.json": lambda: b'{"a":' * 2_000_000,
    "digits.json": lambda: b"9" * 10_000_000,
    "list.json": lambda: b"[" + b"0," * 5_000_000 + b"0]",
    "lines.jsonl": lambda: b"{\n" * 5_000_000,
    "zeros.json": lambda: b"\0" * 10_000_000,
    "bomb.yaml": lambda: (
        b"a0: &a0 [x, x]\n"
        + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 90))
    ),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_in_one_short_line_and_about_a_second(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(GARBAGE[name]())
    begin = time.process_time()  # its own, whoever else uses the machine
    (line,) = errors(path)
    assert time.process_time() - begin < 10  # about 1 s; a quadratic reader takes hours
    assert len(line.removeprefix(str(path))) < 120


def test_a_value_is_repeated_cut_short_and_on_one_line(write: Write) -> None:
    text = JOB.replace("name: sft", f'name: "x\\n{"y" * 500}"')
    (line,) = errors(write("a.yaml", text))
    assert f'found "x\\n{"y" * 37}…"' in line


def test_of_very_many_errors_in_one_document_the_first_are_told(write: Write) -> None:
    fields = "".join(f"  field{i}: 1\n" for i in range(100))
    found = errors(write("a.yaml", f"{JOB}{fields}"))
    assert len(found) == 26
    assert found[-1].endswith("and 75 more errors")


def test_of_very_many_errors_in_one_file_the_first_are_told(write: Write) -> None:
    lines = (json.dumps(job(f"j{i}", priority="x")) for i in range(1200))
    found = errors(write("a.jsonl", "\n".join(lines)))
    assert len(found) == 1001
    assert found[-1] == "a.jsonl: document 1200 (GpuJob j1199): and 200 more errors up to here"


# -- what manifests say of each other


def read_all(*manifests: dict[str, object], **options: Any) -> list[str]:
    return errors("-", stdin=io.StringIO(json.dumps(manifests)), **options)


def test_a_name_taken_twice_names_both_places(write: Write) -> None:
    write("a.yaml", JOB)
    write("b.yaml", f"{POOL}---{JOB}")
    (line,) = errors("a.yaml", "b.yaml")
    assert line.startswith("b.yaml: document 2 (GpuJob sft): metadata.name: ")
    assert line.endswith('found "sft", which is taken by a.yaml: document 1')


def test_the_same_name_in_another_namespace_or_of_another_kind_is_free() -> None:
    text = json.dumps([job("a"), job("a", namespace="other"), queue("a")])
    assert len(read(["-"], stdin=io.StringIO(text)).jobs) == 2


def test_what_is_named_must_exist() -> None:
    placed = job("a", queue="reserch", dependsOn=["b"], placement={"pools": ["h100"]})
    found = read_all(placed, queue("research", parent="root"))
    assert [line.split(": spec.")[1] for line in found] == [
        'queue: found "reserch", which is no GpuQueue, nearest: research',
        'placement.pools[0]: found "h100", which is no GpuPool',
        'dependsOn[0]: found "b", which is no GpuJob',
        'parent: found "root", which is no GpuQueue',
    ]


def test_a_job_waits_only_for_jobs_of_its_namespace() -> None:
    (line,) = read_all(job("a", dependsOn=["b"]), job("b", namespace="other"))
    assert line.endswith('found "b", which is no GpuJob')


def test_references_may_be_left_to_a_cluster() -> None:
    text = json.dumps(job("a", queue="research", dependsOn=["b"]))
    assert names(read(["-"], stdin=io.StringIO(text), references=False)) == ["a"]


def test_a_queue_that_is_in_error_itself_still_exists() -> None:
    broken = queue("research") | {"spec": {"weight": -1}}
    (line,) = read_all(job("a", queue="research"), broken)
    assert line.endswith("spec.weight: found -1, allowed: a number above 0")


def test_what_may_stand_in_an_unreadable_file_is_not_called_missing(write: Write) -> None:
    write("queues.yaml", "[")
    write("jobs.json", json.dumps(job("a", queue="research")))
    (line,) = errors("queues.yaml", "jobs.json")
    assert line.startswith("queues.yaml: line 2")


def test_a_circle_of_queues_is_printed() -> None:
    (line,) = read_all(queue("a", "b"), queue("b", "c"), queue("c", "a"), queue("d", "a"))
    assert line == (
        "standard input: document 1 (GpuQueue a): spec.parent: found the circle a -> b -> c -> a, "
        "allowed: none"
    )


def test_a_hundred_levels_of_queues_are_read_and_one_more_is_printed() -> None:
    chain = [queue("q1"), *(queue(f"q{n}", f"q{n - 1}") for n in range(2, 1500))]
    fine = read(["-"], io.StringIO(json.dumps([*chain[:100], queue("beside", "q99")])))
    assert len(fine.queues) == 101
    (line,) = read_all(*chain)
    assert line == (
        "standard input: document 101 (GpuQueue q101): spec.parent: found a queue 101 levels deep, "
        "allowed: 100 at most"
    )


def test_each_circle_of_jobs_is_printed_and_a_diamond_is_none() -> None:
    diamond = [job("top", dependsOn=["l", "r"]), job("l", dependsOn=["end"])]
    diamond += [job("r", dependsOn=["end"]), job("end")]
    loops = [job("x", dependsOn=["x", "top"]), job("y", dependsOn=["z"]), job("z", dependsOn=["y"])]
    found = read_all(*diamond, *loops)
    assert [line.split("circle ")[1] for line in found] == [
        "x -> x, allowed: none",
        "y -> z -> y, allowed: none",
    ]


def test_a_chain_of_ten_thousand_jobs_is_walked() -> None:
    chain = [job(f"j{i}", dependsOn=[f"j{i + 1}"]) for i in range(9_999)] + [job("j9999")]
    text = "\n".join(map(json.dumps, chain))
    assert len(read(["-"], stdin=io.StringIO(text)).jobs) == 10_000


# -- traces of requests


def service(trace: str) -> str:
    inference = {"model": "llama-3.1-8b", "promptTokens": 512, "outputTokens": 128}
    return json.dumps(job("svc", task=None, inference=inference | {"requestTrace": trace}))


def test_a_trace_beside_its_manifest_becomes_the_rate_of_each_hour(write: Write) -> None:
    write("in/trace.csv", "TIMESTAMP,Tokens\n0,1\n10,1\n3599,1\n3600,1\n10800,1\n")
    write("in/svc.json", service("trace.csv"))
    inference = read(["in"]).jobs[0].spec.inference
    assert inference is not None
    # Hours from the first request: 3, 1, 0 and 1 requests of 3600 s.
    assert inference.trace_requests_per_second == (3 / 3600, 1 / 3600, 0.0, 1 / 3600)


def test_a_trace_that_cannot_be_used_is_an_error_of_its_field(write: Write) -> None:
    write("svc.json", service("lost.csv"))
    assert errors("svc.json") == [
        (
            "svc.json: document 1 (GpuJob svc): spec.inference.requestTrace: found "
            '"lost.csv": No such file or directory'
        )
    ]
