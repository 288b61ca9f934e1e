"""``flopwise whatif``: what it answers, for people and for scripts, and how it says no."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flopwise.errors import BAD_INPUT, FAILED
from planner.plan import Plan
from planner.problem import Problem
from planner.scenarios import Ray, ScenarioError
from planner.solve.clock import Limits
from planner.solve.pick import solve
from tests.flopwise.command import Command, job, pool

START = "earliestStart: 2026-12-01T00:00:00Z"
DUE = f"{START}, deadline: 2026-12-01T04:00:00Z, unplacedUsd: 300"


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Three jobs of 4 h on H100 that must end in time, and two nodes of it: one is left out."""
    file = tmp_path / "all.yaml"
    jobs = "".join(job(name, DUE) for name in ("sft-a", "sft-b", "sft-c"))
    file.write_text(pool("h100", "h100-sxm5-80gb", 3.5, nodes=2) + jobs, encoding="utf-8")
    return file


def test_a_scenario_is_set_beside_the_plan_as_it_is(flopwise: Command, manifests: Path) -> None:
    ended = flopwise("whatif", "-f", manifests, "--change", "pool/h100.nodes+=1")
    assert (ended.code, ended.err) == (0, "")
    # Two jobs at 4 h x 8 x $3.50 = $112 and one left out at $300: $524. With a node more: $336.
    base, more = ended.out.splitlines()[1:]
    assert re.match(r"as it is +\$224\.00 +\$524\.00 +- .* 0\.00 % +1 left out$", base)
    assert re.match(r"pool/h100\.nodes\+=1 +\$336\.00 +\$336\.00 +-\$188\.00 +-\$188\.00 ", more)
    assert re.search(r" -\$188\.00 +0\.00 % +now run: sft-[abc]$", more)


def test_several_scenarios_are_answered_in_their_order(flopwise: Command, manifests: Path) -> None:
    texts = ("pool/h100.price*=2", "pool/h100.nodes-=1,pool/h100.price-=0.5", "pool/h100.nodes=3")
    asked = [part for text in texts for part in ("--change", text)]
    found = json.loads(flopwise("whatif", "-f", manifests, *asked, "-o", "json").out)
    assert [s["scenario"] for s in found["scenarios"]] == list(texts)
    # $7: two jobs at $224. $3 on one node: $96, two left out. Three nodes: all at $112.
    assert [s["plan"]["objectiveUsd"] for s in found["scenarios"]] == [748.0, 696.0, 336.0]
    assert [len(s["nowUnplaced"]) for s in found["scenarios"]] == [0, 1, 0]
    assert found["base"]["objectiveUsd"] == 524.0
    for s in found["scenarios"]:
        assert s["changeUsdLow"] <= s["changeUsd"] <= s["changeUsdHigh"]


def test_the_first_order_answer_takes_no_new_solve(
    flopwise: Command, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = manifests.with_name("plan.json")
    assert flopwise("plan", "-f", manifests, "--out", out).code == 0

    def never(*_: object) -> None:
        raise AssertionError("a solve")

    monkeypatch.setattr("planner.solve.pick.solve", never)
    asked = ("--change", "pool/h100.price+=1", "--change", "job/sft-a.deadline+=1h")
    ended = flopwise("whatif", "-f", out, "--first-order", *asked)
    assert (ended.code, ended.err) == (0, "")
    dearer, later = ended.out.splitlines()[2:]
    # Two jobs of 8 GPUs for 4 h: $64 at a dollar more.
    assert re.match(r"pool/h100\.price\+=1 +- +- +\+\$64\.00", dearer)
    assert "not priced" in later
    as_json = flopwise("whatif", "-f", out, "--first-order", *asked, "-o", "json").out
    first = json.loads(as_json)["scenarios"][0]
    assert (first["plan"], first["firstOrderUsdLow"]) == (None, 64.0)


def test_a_plan_is_the_base_as_it_was_found(flopwise: Command, manifests: Path) -> None:
    out = manifests.with_name("plan.json")
    flopwise("plan", "-f", manifests, "--out", out)
    ended = flopwise("whatif", "-f", out, "--change", "pool/h100.nodes+=1", "-o", "yaml")
    assert "objectiveUsd: 524.0\n" in ended.out
    assert "nowPlaced:\n" in ended.out


def test_the_answers_are_drawn(flopwise: Command, manifests: Path) -> None:
    page = manifests.with_name("whatif.html")
    ended = flopwise("whatif", "-f", manifests, "--change", "pool/h100.nodes+=1", "--plot", page)
    assert (ended.code, ended.err) == (0, f"wrote {page}\n")
    text = page.read_text(encoding="utf-8")
    assert "pool/h100.nodes+=1 costs the least: $188.00 less than the plan as it is." in text


def test_on_ray_the_base_is_a_task_too(
    flopwise: Command, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Ray, int]] = []

    def on_ray(ray: Ray, problems: list[Problem], limits: Limits, known: Plan | None) -> list[Plan]:
        asked.append((ray, len(problems)))
        return [solve(p, limits, known=known) for p in problems]

    monkeypatch.setattr("planner.scenarios.solve_on", on_ray)
    change = ("--change", "pool/h100.nodes+=1")
    there = flopwise("whatif", "-f", manifests, *change, "--on", "ray", "--address", "host:6379")
    assert asked == [(Ray(address="host:6379"), 2)]
    assert there == flopwise("whatif", "-f", manifests, *change)


def test_a_ray_that_fails_is_told_in_a_line(
    flopwise: Command, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ScenarioError("Ray: no answer within 7 s")

    monkeypatch.setattr("planner.scenarios.solve_on", broken)
    ended = flopwise("whatif", "-f", manifests, "--change", "pool/h100.nodes+=1", "--on", "ray")
    assert ended == (FAILED, "", "flopwise: Ray: no answer within 7 s\n")


BAD = {
    "pool/h100.nodez+=1": "found 'nodez', allowed: nodes, price (nearest: nodes)",
    "pool/h10.nodes+=1": "found no pool 'h10', nearest: h100",
    "more": "found 'more', allowed: a change such as pool/NAME.nodes+=8",
    "pool/h100.nodes+=1,": "found '', allowed: a change such as pool/NAME.nodes+=8",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_change_is_bad_input(flopwise: Command, manifests: Path, text: str) -> None:
    ended = flopwise("whatif", "-f", manifests, "--change", text)
    part = text.split(",")[-1]
    assert ended == (BAD_INPUT, "", f"flopwise: --change {part}: {BAD[text]}\n")


def test_a_change_that_leaves_nothing_to_plan_with_is_told(
    flopwise: Command, manifests: Path
) -> None:
    out = flopwise("whatif", "-f", manifests, "--change", "pool/h100.nodes=0").out
    # All three left out: $900.
    assert re.search(r"^pool/h100\.nodes=0 +\$0\.00 +\$900\.00 +\+\$376\.00 ", out, re.MULTILINE)


def test_other_bad_options_are_bad_input(flopwise: Command, manifests: Path) -> None:
    change = ("--change", "pool/h100.nodes+=1")
    alone = flopwise("whatif", "-f", manifests, *change, "--address", "host:1")
    assert (alone.code, "allowed with --on ray only" in alone.err) == (BAD_INPUT, True)
    nowhere = manifests.parent / "none" / "page.html"
    ended = flopwise("whatif", "-f", manifests, *change, "--plot", nowhere)
    assert ended.code == BAD_INPUT
    assert ended.err == f"flopwise: --plot: {nowhere}: no such folder: {nowhere.parent}\n"
    missing = flopwise("whatif", "-f", manifests)
    assert (missing.code, "--change" in missing.err) == (BAD_INPUT, True)
