"""How the report's figures look: colours, type, axes.

Colour means team, everywhere; grey is what nobody used. What depends on the page being light or
dark (text, rules, gaps between bars) is left to the style sheet, which overrides it on the drawn
SVG.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cost_models.ledger import Key, Ledger, Line, LineKind
from cost_models.report import words

# Dark enough for white paper, light enough for black, and told apart by the colour-blind.
PALETTE = ("#0072b2", "#d55e00", "#3c9669", "#964b78", "#a587b4", "#5a87f0")
OTHER = "#7d828a"  # teams beyond the palette
IDLE = "#a9aeb6"
STARTUP = "#8d8168"
ACCENT = "#0f7c80"
GRID = "rgba(128,134,142,.25)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

Spec = dict[str, Any]
Part = tuple[LineKind, str]  # what a line counts as in a stack of colours: its kind and team

UNUSED: dict[Part, str] = {(LineKind.STARTUP, ""): STARTUP, (LineKind.IDLE, ""): IDLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A Plotly specification, and what it shows in words for who cannot see it."""

    name: str  # the element's id: fixed, so that the same report is the same bytes
    data: list[Spec]
    layout: Spec
    height: int  # pixels
    text: str
    legend: tuple[tuple[str, str], ...] = ()  # (label, colour)
    note: str = ""


def text_of(value: str) -> str:
    """``value`` for Plotly, which reads a little HTML in every label."""
    return html.escape(value, quote=False)


def colours_of(ledger: Ledger) -> dict[Part, str]:
    """A colour for each team, the dearest first (beyond the palette they share one), then greys."""
    teams = enumerate(words.work_by(ledger, Key.TEAM))
    colours = {(LineKind.WORK, t): PALETTE[i] if i < len(PALETTE) else OTHER for i, t in teams}
    return colours | UNUSED


def part_of(line: Line) -> Part:
    """What a line counts as in a stack of colours: a job's data as its work."""
    return (line.kind if line.unused else LineKind.WORK), line.team


def part_name(part: Part) -> str:
    """The team, or what the GPUs did instead of working."""
    kind, team = part
    return words.named(Key.TEAM, team) if kind is LineKind.WORK else words.KINDS[kind]


def legend_of(lines: Iterable[Line], colours: Mapping[Part, str]) -> tuple[tuple[str, str], ...]:
    """The meaning of each colour that ``lines`` use, teams beyond the palette as one."""
    used = {part_of(line) for line in lines}
    marks = [(part_name(part), colour) for part, colour in colours.items() if part in used]
    named = [mark for mark in marks if mark[1] != OTHER]
    return (*named, ("Other teams", OTHER)) if len(named) < len(marks) else tuple(named)


def short(name: str, most: int) -> str:
    """``name`` in at most so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on ``colour``."""
    return "#ffffff" if contrast(colour, "#ffffff") >= contrast(colour, "#10151a") else "#10151a"


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2): 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def layout_of(height: int, **more: Any) -> Spec:
    """What every figure has in common, and ``more``."""
    return {
        "height": height,
        "margin": {"l": 0, "r": 4, "t": 4, "b": 40},
        "font": {"family": FONT, "size": 13, "color": "#5b636d"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {
            "bgcolor": "#1f252b",
            "bordercolor": "#1f252b",
            "font": {"family": FONT, "size": 12, "color": "#ffffff"},
            "align": "left",
        },
        "hovermode": "closest",
        "showlegend": False,
        "dragmode": False,
    } | more


def hidden_axis() -> Spec:
    """An axis that only places things."""
    return {"visible": False, "fixedrange": True}


def time_axis(ledger: Ledger) -> Spec:
    """The period, by days or by hours."""
    days = ledger.end - ledger.start > timedelta(days=2)
    return {
        "type": "date",
        "range": [time(ledger.start), time(ledger.end)],
        "showgrid": True,
        "gridcolor": GRID,
        "zeroline": False,
        "tickfont": {"size": 12},
        "tickformat": "%-d %b" if days else "%H:%M\n%-d %b",
        "nticks": 8,
    }


def time(when: datetime) -> str:
    """``when`` as Plotly's date axes read it: UTC, with no zone."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
