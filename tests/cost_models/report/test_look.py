"""Colours that can be read and told apart, on paper and on black."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from itertools import combinations

import pytest

from cost_models.report import Report, look

CSS = files("cost_models.report").joinpath("page.css").read_text(encoding="utf-8")
VARIABLES = [
    dict(re.findall(r"--(\w+): (#\w{6})", line)) for line in CSS.split("\n") if "--paper:" in line
]


def test_black_on_white_has_the_largest_contrast() -> None:
    assert look.contrast("#000000", "#ffffff") == pytest.approx(21)


def test_the_page_has_a_light_and_a_dark_set_of_colours() -> None:
    assert len(VARIABLES) == 2


@pytest.mark.parametrize("page", VARIABLES)
@pytest.mark.parametrize("text", ["ink", "soft", "accent"])
def test_text_can_be_read(page: dict[str, str], text: str) -> None:
    assert look.contrast(page[text], page["paper"]) >= 4.5  # WCAG 2.2, 1.4.3


@pytest.mark.parametrize("page", VARIABLES)
@pytest.mark.parametrize("colour", [*look.PALETTE, look.OTHER, look.ACCENT])
def test_bars_stand_out_from_the_page(page: dict[str, str], colour: str) -> None:
    assert look.contrast(colour, page["paper"]) >= 3  # WCAG 2.2, 1.4.11


@pytest.mark.parametrize("colour", [*look.PALETTE, look.OTHER])
def test_names_on_bars_can_be_read(colour: str) -> None:
    assert look.contrast(look.ink_on(colour), colour) >= 4.5


# Linear RGB as a deuteranope and a protanope sees it: G. M. Machado, M. M. Oliveira, L. A. F.
# Fernandes, IEEE TVCG 15(6), 2009, severity 1.
SEEN_BY = {
    "deuteranope": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "protanope": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "everyone": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


def _lab(colour: str, eye: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    """Oklab of what ``eye`` sees (B. Ottosson, 2020)."""
    srgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb]
    r, g, b = (max(0.0, sum(m * c for m, c in zip(row, linear, strict=True))) for row in eye)
    el = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    em = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    es = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * el + 0.793617785 * em - 0.0040720468 * es,
        1.9779984951 * el - 2.428592205 * em + 0.4505937099 * es,
        0.0259040371 * el + 0.7827717662 * em - 0.808675766 * es,
    )


@pytest.mark.parametrize("eye", SEEN_BY)
def test_teams_are_told_apart_by_every_eye(eye: str) -> None:
    labs = [_lab(colour, SEEN_BY[eye]) for colour in look.PALETTE]
    apart = min(
        sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5
        for x, y in combinations(labs, 2)
    )
    assert apart >= 0.08  # four times a just noticeable difference of 0.02


def test_teams_beyond_the_palette_share_a_colour_and_a_legend(sample: Report) -> None:
    lines = sample.plan.ledger.lines
    many = tuple(replace(x, team=f"team-{i % 9}") for i, x in enumerate(lines) if x.job)
    ledger = replace(sample.plan.ledger, lines=many)
    colours = look.colours_of(ledger)
    assert list(colours.values()).count(look.OTHER) == 9 - len(look.PALETTE)
    assert [label for label, _ in look.legend_of(many, colours)][-1] == "Other teams"
