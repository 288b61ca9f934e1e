"""Bad input to ``flopwise plan``: a line for each thing wrong, all at once, and nothing written."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flopwise.errors import BAD_INPUT
from tests.flopwise.command import POOLS, Command, job, manifest, on_its_own, queue

SFT = "document 3 (GpuJob sft)"
FIELDS = (
    "queue, priority, required, earliestStart, deadline, due, latenessUsdPerHour, unplacedUsd,"
    " maxCostUsd, dependsOn, preemptible, checkpoint, placement, training, inference, task, run"
)


def refused(flopwise: Command, folder: Path, *arguments: object) -> list[str]:
    """What the command says of the only fault in ``folder``; it must have done nothing else."""
    before = sorted(folder.rglob("*"))
    ended = flopwise("plan", *arguments, "--out", folder / "plan.json")
    assert (ended.code, ended.out) == (BAD_INPUT, "")
    assert sorted(folder.rglob("*")) == before
    assert "Traceback" not in ended.err
    return [line.replace(f"{folder}/", "") for line in ended.lines]


CASES = {  # what is appended to two pools, where that is wrong, and what is said of it
    "an unknown field": (
        job("sft", "gpuz: 3"),
        f"{SFT}: spec.gpuz",
        f"unknown field, allowed: {FIELDS}",
    ),
    "a wrong type": (
        job("sft", "priority: high"),
        f"{SFT}: spec.priority",
        'found "high", allowed: a whole number',
    ),
    "a text for a list": (
        job("sft", "dependsOn: other"),
        f"{SFT}: spec.dependsOn",
        'found "other", allowed: a list',
    ),
    "a negative quantity": (
        job("sft", work="task: {gpus: -2, hours: {h100-sxm5-80gb: 2}}"),
        f"{SFT}: spec.task.gpus",
        "found -2, allowed: 1 or more",
    ),
    "hours of none": (
        job("sft", work="task: {gpus: 1, hours: {h100-sxm5-80gb: 0}}"),
        f"{SFT}: spec.task.hours.h100-sxm5-80gb",
        "found 0, allowed: a number above 0",
    ),
    "not a number": (
        job("sft", work="task: {gpus: 1, hours: {h100-sxm5-80gb: .nan}}"),
        f"{SFT}: spec.task.hours.h100-sxm5-80gb",
        "found nan, allowed: a finite number",
    ),
    "an infinite price": (
        job("sft", "unplacedUsd: .inf"),
        f"{SFT}: spec.unplacedUsd",
        "found inf, allowed: a finite number",
    ),
    "a missing pool": (
        job("sft", "placement: {pools: [h10]}"),
        f"{SFT}: spec.placement.pools[0]",
        'found "h10", which is no GpuPool, nearest: h100',
    ),
    "a missing queue": (
        job("sft", "queue: research"),
        f"{SFT}: spec.queue",
        'found "research", which is no GpuQueue',
    ),
    "a missing job to wait for": (
        job("sft", "dependsOn: [data]"),
        f"{SFT}: spec.dependsOn[0]",
        'found "data", which is no GpuJob',
    ),
    "an unknown accelerator": (
        job("sft", work="task: {gpus: 1, hours: {h10x: 2}}"),
        f"{SFT}: spec.task.hours.h10x",
        'found "h10x", which is no known accelerator, nearest: h100, h100_sxm, h100-sxm',
    ),
    "an unknown model": (
        job("sft", work="training: {model: llama-9, tokens: 1.0e9, gpus: 8}"),
        f"{SFT}: spec.training.model",
        'found "llama-9", which is no known model, nearest: llama-3-8b, llama-3-70b, llama-3.2-3b',
    ),
    "a circle of queues": (
        queue("a", "parent: b") + queue("b", "parent: a"),
        "document 3 (GpuQueue a): spec.parent",
        "found the circle a -> b -> a, allowed: none",
    ),
    "a circle of dependencies": (
        job("a", "dependsOn: [b]") + job("b", "dependsOn: [a]"),
        "document 3 (GpuJob a): spec.dependsOn",
        "found the circle a -> b -> a, allowed: none",
    ),
    "a deadline before the start": (
        job("sft", "earliestStart: 2026-12-02T00:00:00Z, deadline: 2026-12-01T00:00:00Z"),
        f"{SFT}: spec.deadline",
        "found 2026-12-01T00:00:00Z, allowed: later than earliestStart, 2026-12-02T00:00:00Z",
    ),
    "a name that is taken": (
        job("sft") + job("sft"),
        "document 4 (GpuJob sft): metadata.name",
        'found "sft", which is taken by bad.yaml: document 3',
    ),
    "another kind": (
        manifest("GpuFarm", "sft", ""),
        "document 3 (sft): kind",
        'found "GpuFarm", allowed: GpuPool, GpuQueue, GpuJob',
    ),
    "work that is not planned yet": (
        job(
            "sft",
            more="due: 2026-12-03T00:00:00Z",
            work="inference: {model: llama-3.1-8b, promptTokens: 9, outputTokens: 9, "
            "requestsPerSecond: 1}",
        ),
        f"{SFT}: spec.due",
        "not planned yet (see the README's limits)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_one_line_with_its_file_document_field_and_what_is_allowed(
    case: str, flopwise: Command, tmp_path: Path
) -> None:
    text, place, message = CASES[case]
    (tmp_path / "bad.yaml").write_text(POOLS + text, encoding="utf-8")
    assert refused(flopwise, tmp_path, "-f", tmp_path / "bad.yaml") == [
        f"flopwise: bad.yaml: {place}: {message}"
    ]


def test_pools_without_a_job_are_no_question(flopwise: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(POOLS, encoding="utf-8")
    assert refused(flopwise, tmp_path, "-f", tmp_path / "bad.yaml") == [
        "flopwise: manifests: found no GpuJob, allowed: one or more"
    ]


def test_all_that_is_wrong_is_said_at_once(flopwise: Command, tmp_path: Path) -> None:
    one = POOLS + job("a", "priority: x, required: 2") + job("b", "maxCostUsd: -1")
    (tmp_path / "1.yaml").write_text(one, encoding="utf-8")
    (tmp_path / "2.yaml").write_text(job("c", work="task: {hours: {}}"), encoding="utf-8")
    said = refused(flopwise, tmp_path, "-f", tmp_path, "-f", tmp_path / "3.yaml")
    assert (
        "\n".join(said)
        == """\
flopwise: 1.yaml: document 3 (GpuJob a): spec.priority: found "x", allowed: a whole number
flopwise: 1.yaml: document 3 (GpuJob a): spec.required: found 2, allowed: true or false
flopwise: 1.yaml: document 4 (GpuJob b): spec.maxCostUsd: found -1, allowed: 0 or more
flopwise: 2.yaml: document 1 (GpuJob c): spec.task.hours: found a mapping, allowed: at least 1 entry
flopwise: 3.yaml: No such file or directory"""
    )


def test_standard_input_is_named_as_such(flopwise: Command) -> None:
    ended = flopwise("plan", "-f", "-", stdin=POOLS + job("sft", "priority: x"))
    place = f"standard input: {SFT}: spec.priority"
    assert (ended.code, ended.out) == (BAD_INPUT, "")
    assert ended.err == f'flopwise: {place}: found "x", allowed: a whole number\n'


@pytest.mark.parametrize("text", ["", "\n\n# nothing yet\n", "---\n---\n"])
def test_an_empty_file_is_said_to_be_empty(text: str, flopwise: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    assert refused(flopwise, tmp_path, "-f", tmp_path / "bad.yaml") == [
        "flopwise: bad.yaml: empty: no manifest in it"
    ]


def test_a_folder_without_manifests_is_said_to_have_none(flopwise: Command, tmp_path: Path) -> None:
    assert refused(flopwise, tmp_path, "-f", tmp_path) == [
        f"flopwise: {tmp_path}: no manifest in it, allowed: .yaml, .yml, .json, .jsonl"
    ]


def test_a_missing_file_is_named(flopwise: Command, tmp_path: Path) -> None:
    assert refused(flopwise, tmp_path, "-f", tmp_path / "no.yaml") == [
        "flopwise: no.yaml: No such file or directory"
    ]


AS_LETTERS = bytes(b"abcdefgh {}[]:,-\n"[byte % 17] for byte in range(256))
GARBAGE: dict[str, Callable[[], bytes]] = {
    "bytes": lambda: random.Random(0).randbytes(10_000_000),
    # Drawn one by one they take seconds.
    "letters": lambda: random.Random(0).randbytes(10_000_000).translate(AS_LETTERS),
    "braces": lambda: b"{" * 10_000_000,
    "open lists": lambda: b"a: [b, {c\n" * 1_000_000,
    "scalars": lambda: b"- 1\n" * 2_500_000,
}


@pytest.mark.parametrize("suffix", ["yaml", "json", "jsonl"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_ten_megabytes_of_garbage_are_refused_in_seconds(
    kind: str, suffix: str, flopwise: Command, tmp_path: Path
) -> None:
    (tmp_path / f"bad.{suffix}").write_bytes(GARBAGE[kind]())
    began = time.monotonic()
    lines = refused(flopwise, tmp_path, "-f", tmp_path / f"bad.{suffix}")
    assert time.monotonic() - began < 10
    assert 1 <= len(lines) <= 20
    assert all(line.startswith(f"flopwise: bad.{suffix}: ") for line in lines)
    assert max(map(len, lines)) < 300


OPTIONS = {
    ("--horizon", "soon"): "found 'soon', allowed: a length above 0 such as 90m, 168h, 7d",
    ("--horizon", "0h"): "found '0h', allowed: a length above 0 such as 90m, 168h, 7d",
    ("--horizon", "999999999w"): "at most ten years",
    ("--time-limit", "-5s"): "found '-5s', allowed: a length above 0 such as 90m, 168h, 7d",
    ("--slot", "0.5s"): "found '0.5s', allowed: auto, or whole seconds",
    ("--slot", "30d"): "found '30d', allowed: 1 to 1,000,000 of them in --horizon 168h",
    ("--start", "yesterday"): "found 'yesterday', allowed: a time such as 2026-12-07T00:00Z",
    ("--start", "9999-12-31"): "found '9999-12-31', allowed: a time such as 2026-12-07T00:00Z",
    ("--gap", "nan"): "less than or equal to 1",
    ("--gap", "-0.1"): "greater than or equal to 0",
    ("--seed", "-1"): "greater than or equal to 0",
    ("--output", "xml"): "'xml' is not one of 'table', 'wide', 'json', 'yaml', 'csv'",
}


@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_a_bad_value_of_an_option_is_named_with_what_is_allowed(
    option: str, value: str, flopwise: Command, tmp_path: Path
) -> None:
    (tmp_path / "good.yaml").write_text(POOLS + job("sft"), encoding="utf-8")
    last = refused(flopwise, tmp_path, "-f", tmp_path / "good.yaml", option, value)[-1]
    assert last.startswith("Error: Invalid value for ")
    assert option in last
    assert OPTIONS[option, value] in last


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "Error: Missing option '-f' / '--file'."),
        (("--horizn", "3h"), "Error: No such option: --horizn (Possible options: --horizon, --on)"),
    ],
)
def test_a_wrong_call_ends_with_what_is_wrong(
    arguments: tuple[str, ...], line: str, flopwise: Command
) -> None:
    ended = flopwise("plan", *arguments)
    assert (ended.code, ended.lines[-1]) == (BAD_INPUT, line)


def test_an_unknown_command_is_named(flopwise: Command) -> None:
    ended = flopwise("paln")
    assert (ended.code, ended.lines[-1]) == (
        BAD_INPUT,
        "Error: No such command 'paln'. Did you mean 'plan'?",
    )


def test_a_place_to_write_that_is_none_is_refused_before_the_work(
    flopwise: Command, tmp_path: Path
) -> None:
    for out, why in (
        (tmp_path / "no" / "plan.json", f"no such folder: {tmp_path}/no"),
        (tmp_path, "is a folder, allowed: a file"),
    ):
        ended = flopwise("plan", "-f", tmp_path / "unread.yaml", "--out", out)
        assert (ended.code, ended.lines) == (BAD_INPUT, [f"flopwise: --out: {out}: {why}"])


def test_a_process_of_its_own_says_the_same_and_shows_no_traceback(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(POOLS + job("sft", "priority: x"), encoding="utf-8")
    message = f'{bad}: {SFT}: spec.priority: found "x", allowed: a whole number'
    assert on_its_own("plan", "-f", bad) == (BAD_INPUT, "", f"flopwise: {message}\n")
