"""The page: one file, the same bytes each time, nothing from outside, no manifest in command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cost_models.ledger import Ledger, LineKind
from cost_models.report import Outcome, Report, document, page, write_report
from cost_models.report.page import script_json

EVIL = "<script>alert(1)</script>{{plotly}}$&\"'"


class Outline(HTMLParser):
    """Headings, ids and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [str(values[name]) for name in ("src", "href") if name in values]


@pytest.fixture(scope="module")
def text(sample: Report) -> str:
    return page(sample)


def own(text: str) -> str:
    """The page without Plotly's own text, which speaks of many things."""
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    return text.replace(max(scripts, key=len), "")


def test_the_same_report_gives_the_same_bytes(sample: Report, tmp_path: Path) -> None:
    write_report(sample, tmp_path / "a.html")
    write_report(sample, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_the_file_is_six_megabytes_at_most_with_plotly_in_it_once(text: str) -> None:
    assert len(text.encode()) <= 6_000_000
    assert len(re.findall(r"plotly\.js v\d", text)) == 1


def test_the_page_links_to_nothing_and_forbids_every_request(text: str) -> None:
    assert Outline(own(text)).links == []
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", own(text))


def test_the_page_has_one_title_and_headings_below_it(text: str) -> None:
    outline = Outline(own(text))
    headings = [tag for tag in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}
    assert outline.tags.count("table") == outline.tags.count("caption")
    assert len(outline.ids) == len(set(outline.ids))


def test_every_section_of_the_report_is_there(text: str) -> None:
    titles = [t.replace("\u00a0", " ") for t in re.findall(r"<h2>(.*?)</h2>", text)]
    assert titles == [
        "Product used 48 % of the spend",
        "The project chat used 41 % of the spend",
        "The pool h100-us-east used 72 % of the spend",
        "The 5 dearest of 40 jobs make up 81 % of the spend",
        "40 jobs on 6 pools, over time",
        "GPUs that are paid for work 75 % of their time",
        "Idle GPUs and start-up cost $13,353, 40 % of it on h100-owned",
        "First-come-first-served would have spent $29,218 more",
        "1 job left out",
        "The work draws 16.3 MWh and emits 5.44 t of CO₂",
        "39 runs took 1.01 times the planned hours at the median",
        "What the numbers rest on",
    ]


def test_stand_ins_are_called_so(text: str, sample: Report) -> None:
    assert sample.stand_ins.replace("'", "&#x27;") in text


def test_what_a_manifest_says_is_text_everywhere(sample: Report) -> None:
    lines = tuple(
        replace(
            x,
            job=x.job and EVIL,
            team=x.team and EVIL,
            project=x.project and EVIL,
            pool=EVIL,
            nodes=(EVIL,),
        )
        for x in sample.plan.ledger.lines
    )
    missed = replace(sample.plan.left_out[0], job=EVIL, message=EVIL, team=EVIL, reason=EVIL)
    plan = replace(sample.plan, ledger=replace(sample.plan.ledger, lines=lines), left_out=(missed,))
    assert sample.proof is not None
    report = replace(
        sample,
        title=EVIL,
        plan=plan,
        baseline=plan,
        measured=tuple(replace(m, job=EVIL, pool=EVIL, status=EVIL) for m in sample.measured),
        stand_ins=EVIL,
        assumptions=tuple(replace(a, what=EVIL, source=EVIL) for a in sample.assumptions),
        proof=replace(sample.proof, method=EVIL, relaxes=(EVIL,)),
    )
    text = page(report)
    assert len(re.findall(r"plotly\.js v\d", text)) == 1  # the {{plotly}} of a name is no place
    assert Outline(own(text)).tags.count("script") == 3  # the fourth is Plotly's
    assert "<script>alert(1)" not in own(text)


def test_json_in_a_script_cannot_end_it() -> None:
    text = script_json(["</script>", "<!--", "\u2028"])
    assert "<" not in text
    assert text.isascii()
    assert json.loads(text) == ["</script>", "<!--", "\u2028"]


def test_a_report_of_nothing_is_a_page(sample: Report) -> None:
    ledger = replace(sample.plan.ledger, lines=())
    bare = Report(title="Nothing", plan=Outcome(ledger=ledger, jobs=0), proof=sample.proof)
    text = page(bare)
    assert "no job states its FLOPs" in text
    assert "nan" not in own(text).lower().split("<style>")[0]


def test_work_without_flops_is_priced_by_gpu_hour(sample: Report) -> None:
    lines = tuple(replace(x, useful_flops=0.0) for x in sample.plan.ledger.lines)
    ledger = Ledger(start=sample.plan.ledger.start, end=sample.plan.ledger.end, lines=lines)
    text = page(replace(sample, plan=replace(sample.plan, ledger=ledger)))
    worked = sum(x.gpu_hours for x in lines if x.kind is LineKind.WORK)
    assert f'<dd class="value">${ledger.total.usd / worked:.2f}</dd>' in text


def test_a_page_that_cannot_be_written_leaves_nothing(sample: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(sample, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_document_has_the_same_totals_as_the_ledger(sample: Report) -> None:
    facts = json.loads(json.dumps(document(sample), allow_nan=False))
    total = sample.plan.ledger.total
    assert facts["plan"]["costUsd"] == total.usd
    assert len(facts["lines"]) == len(sample.plan.ledger.lines)
    for groups in facts["by"].values():
        assert sum(round(g["costUsd"] * 1e6) for g in groups) == total.usd_micros
    assert sum(round(x["costUsd"] * 1e6) for x in facts["lines"]) == total.usd_micros
