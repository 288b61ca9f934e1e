"""The page of a what-if: what is drawn, what is said, and that it can be opened anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cost_models.report.whatif import Row, objectives, whatif_page, write_whatif

BASE = Row(name="as it is", money_usd=90.0, objective_usd=100.0, bound_usd=98.0, left_out=1)
MORE = Row(
    name="pool/h100.nodes+=8",
    money_usd=92.0,
    objective_usd=92.0,
    bound_usd=92.0,
    first_order_usd=91.0,
    left_out=0,
)
DEARER = Row(
    name="<b>",
    money_usd=110.0,
    objective_usd=120.0,
    bound_usd=115.0,
    first_order_usd=None,
    left_out=1,
)


def test_each_scenario_is_a_line_from_bound_to_plan_and_a_ring_where_it_was_priced() -> None:
    figure = objectives([BASE, MORE, DEARER])
    lines = [(t["x"], t["y"]) for t in figure.data if t["mode"] == "lines"]
    assert lines == [([98.0, 100.0], [0, 0]), ([92.0, 92.0], [1, 1]), ([115.0, 120.0], [2, 2])]
    rings, found = (t for t in figure.data if t["mode"] == "markers")
    assert (rings["x"], rings["y"]) == ([91.0], [1])
    assert found["x"] == [100.0, 92.0, 120.0]


def test_all_that_is_drawn_lies_on_the_axis() -> None:
    figure = objectives([BASE, MORE, DEARER])
    low, high = figure.layout["xaxis"]["range"]
    assert low < 91.0
    assert high > 120.0
    assert figure.layout["shapes"][0]["x0"] == 100.0  # the plan as it is, down all rows


def test_a_single_figure_still_has_an_axis() -> None:
    low, high = objectives([BASE]).layout["xaxis"]["range"]
    assert low < 98.0 < 100.0 < high


def test_the_page_says_which_scenario_costs_the_least() -> None:
    text = whatif_page("What if", [BASE, MORE, DEARER])
    assert "pool/h100.nodes+=8 costs the least: $8.00 less than the plan as it is." in text
    assert "No scenario costs less than the plan as it is, $100.00." in whatif_page(
        "What if", [BASE, DEARER]
    )
    assert "The plan as it is: $100.00." in whatif_page("What if", [BASE])


def test_a_name_is_text_and_the_page_asks_nothing_of_a_network() -> None:
    text = whatif_page("What if", [BASE, DEARER])
    assert "&lt;b&gt;" in text
    assert "default-src 'none'" in text
    body = text[text.index("<main>") : text.index("</main>")]
    assert not re.search(r"src=|href=", body)


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "whatif.html"
    write_whatif("What if", [BASE, MORE], page)
    assert page.read_text(encoding="utf-8") == whatif_page("What if", [BASE, MORE])
    with pytest.raises(FileNotFoundError):
        write_whatif("What if", [BASE], tmp_path / "none" / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["whatif.html"]
