"""The live view of ``flopwise telemetry top``: the door to Textual, loaded when it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static

from flopwise.live import Choice, Table, is_left, rows, summary, titles
from telemetry.live import Now

RED, GREY = "bold #ff5f56", "grey58"
TITLE = "flopwise telemetry top"


class Top(App[None]):
    """Nodes, GPUs and jobs now, with dollars an hour; idle in red."""

    CSS = """
    #summary { height: 1; padding: 0 1; background: $panel; }
    #filter { height: 3; display: none; }
    DataTable { height: 1fr; }
    DataTable > .datatable--cursor { background: $primary 35%; }
    DataTable:focus > .datatable--cursor { background: $primary 35%; }
    """
    TITLE = TITLE
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "table('gpus')", "GPUs"),
        Binding("n", "table('nodes')", "Nodes"),
        Binding("j", "table('jobs')", "Jobs"),
        Binding("s", "sort", "Sort by the next column"),
        Binding("r", "reverse", "Reverse"),
        Binding("i", "idle", "Idle only"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "clear", "All", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        look: Callable[[], Now],
        *,
        interval_seconds: float,
        choice: Choice,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__()
        self._look, self._interval_seconds, self._clock = look, interval_seconds, clock
        self.choice = choice
        self._now: Now | None = None
        self._failure = ""

    def compose(self) -> ComposeResult:
        """The line of sums, the filter, the table, the keys."""
        yield Static(id="summary")
        yield Input(placeholder="node, owner, team, state ...", id="filter")
        yield DataTable(
            cursor_type="row",
            cursor_foreground_priority="renderable",
            cursor_background_priority="css",
        )
        yield Footer()

    async def on_mount(self) -> None:
        """Shows at once, and then at each interval."""
        self.query_one(DataTable).focus()
        await self.read()
        self.set_interval(self._interval_seconds, self.read)

    async def read(self) -> None:
        """Look again. What cannot be read is said, and the last view stays."""
        try:
            self._now = await asyncio.to_thread(self._look)
            self._failure = ""
        except (OSError, ValueError, RuntimeError) as error:  # files, drivers, networks
            self._failure = str(error)
        self.draw()

    def draw(self) -> None:
        """Everything anew; the cursor stays in its row."""
        self.query_one("#summary", Static).update(self._summary())
        if self._now is None:
            return
        table = self.query_one(DataTable)
        cursor = table.cursor_row
        table.clear(columns=True)
        for number, title in enumerate(titles(self.choice.table)):
            table.add_column(self._heading(number, title), key=str(number))
        for row in rows(self._now, self.choice):
            style = RED if row.alarm else GREY if row.dim else ""
            table.add_row(*(self._cell(n, cell, style) for n, cell in enumerate(row.cells)))
        table.move_cursor(row=cursor)

    def _summary(self) -> Text:
        if self._failure:
            return Text(self._failure, style=RED)
        if self._now is None:
            return Text("reading")
        pieces = summary(self._now, self._clock())
        return Text("   ").join(Text(text, style=RED if red else "") for text, red in pieces)

    def _heading(self, number: int, title: str) -> Text:
        if number != self.choice.column:
            return self._cell(number, title, "")
        arrow = "▼" if self.choice.descending else "▲"
        return self._cell(number, f"{title} {arrow}", "bold")

    def _cell(self, number: int, text: str, style: str) -> Text:
        left = is_left(self.choice.table, number)
        return Text(text, style=style, justify="left" if left else "right")

    def action_table(self, name: str) -> None:
        """Another table, in the order of its names."""
        self.choice = replace(self.choice, table=Table(name), column=0, descending=False)
        self.draw()

    def action_sort(self) -> None:
        """By the next column; numbers begin with the largest."""
        column = (self.choice.column + 1) % len(titles(self.choice.table))
        descending = not is_left(self.choice.table, column)
        self.choice = replace(self.choice, column=column, descending=descending)
        self.draw()

    def action_reverse(self) -> None:
        """The other way round."""
        self.choice = replace(self.choice, descending=not self.choice.descending)
        self.draw()

    def action_idle(self) -> None:
        """Only what is idle, or everything again."""
        self.choice = replace(self.choice, idle_only=not self.choice.idle_only)
        self.draw()

    def action_filter(self) -> None:
        """Ask for a text that rows must hold."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_clear(self) -> None:
        """No filter."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        self.choice = replace(self.choice, filter_text="", idle_only=False)
        self.query_one(DataTable).focus()
        self.draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self.choice = replace(self.choice, filter_text=event.value)
        self.draw()

    def on_input_submitted(self) -> None:
        """Back to the table."""
        self.query_one(DataTable).focus()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a heading sorts by it, a second one the other way."""
        same = event.column_index == self.choice.column
        largest = not is_left(self.choice.table, event.column_index)
        descending = not self.choice.descending if same else largest
        self.choice = replace(self.choice, column=event.column_index, descending=descending)
        self.draw()


def show(look: Callable[[], Now], *, interval_seconds: float, choice: Choice) -> None:
    """Take the terminal until `q`."""
    Top(look, interval_seconds=interval_seconds, choice=choice).run()


def picture(look: Callable[[], Now], *, choice: Choice, size: tuple[int, int]) -> str:
    """The first frame as SVG, of so many columns and lines; its clock is the newest sample's."""

    async def shot() -> str:
        now = look()
        app = Top(lambda: now, interval_seconds=3600, choice=choice, clock=lambda: now.time)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            return app.export_screenshot(title=TITLE)

    return asyncio.run(shot())
