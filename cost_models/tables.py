"""The one way a catalog is read: a CSV file whose columns are the fields of a frozen dataclass.

The dataclass is the schema. Its annotations say what a cell may hold, its defaults which cells may
be empty; so a row, or a whole file from somewhere else, is added without code. Lists are separated
by blanks inside a cell. Every error of a file is reported at once, with line and column.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from cost_models.names import nearest

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]  # a fraction, never percent
Latitude = Annotated[float, Field(ge=-90, le=90)]  # degrees, north above 0
Longitude = Annotated[float, Field(ge=-180, le=180)]  # degrees, east above 0
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Country = Annotated[str, Field(pattern=r"^([A-Z]{2})?$")]
Words = Annotated[tuple[str, ...], BeforeValidator(lambda cell: tuple(str(cell).split()))]


class TableError(ValueError):
    """A catalog file that does not say what it must; ``problems`` has one line for each error."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def read_bundled(file_name: str, row_type: type[T], *, unique: tuple[str, ...]) -> tuple[T, ...]:
    """The rows of a catalog that ships with the package."""
    text = (resources.files("cost_models") / "data" / file_name).read_text(encoding="utf-8")
    return parse_table(text, row_type, source=file_name, unique=unique)


def read_table(path: Path, row_type: type[T], *, unique: tuple[str, ...]) -> tuple[T, ...]:
    """The rows of a catalog file of the user's own; `TableError` where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise TableError((f"{path}: {reason}",)) from None
    return parse_table(text, row_type, source=str(path), unique=unique)


def parse_table(
    text: str, row_type: type[T], *, source: str, unique: tuple[str, ...]
) -> tuple[T, ...]:
    """The rows of a CSV text, checked.

    ``unique`` names the columns that together identify a row. Raises `TableError` with every
    problem of the file, each naming ``source``, line, column, what was found and what is allowed.
    """
    if not text.strip():
        raise TableError((f"{source}: line 1: found nothing, a line of column names is needed",))
    reader = csv.DictReader(io.StringIO(text), strict=True)
    adapter: TypeAdapter[T] = TypeAdapter(row_type)
    rows: list[tuple[int, T]] = []
    problems: list[str] = []
    try:
        problems += _header_problems(reader.fieldnames or (), row_type)
        for cells in reader if not problems else ():
            good, wrong = _row(cells, adapter)
            rows += [(reader.line_num, row) for row in good]
            problems += [f"line {reader.line_num}, {problem}" for problem in wrong]
    except csv.Error as error:
        problems.append(f"line {reader.line_num + 1}: not CSV ({error})")
    problems += _duplicates(rows, unique)
    if not rows and not problems:
        problems.append("line 1: found no rows, at least one is needed")
    if problems:
        raise TableError(tuple(f"{source}: {problem}" for problem in problems))
    return tuple(row for _, row in rows)


def _row(cells: dict[Any, Any], adapter: TypeAdapter[T]) -> tuple[list[T], list[str]]:
    """One line's row, or what is wrong with it; empty cells take their field's default."""
    if None in cells:
        return [], [f"column {len(cells)}: found {cells[None][0]!r}, more cells than columns"]
    try:
        filled = {n: cell.strip() for n, cell in cells.items() if cell and cell.strip()}
        return [adapter.validate_python(filled)], []
    except ValidationError as error:
        return [], list(_cell_problems(error))


def _header_problems(found: Any, row_type: type) -> Iterator[str]:
    fields = {f.name: f for f in dataclasses.fields(row_type) if f.init}
    for name in found:
        if name not in fields:
            hint = " or ".join(nearest(name, fields)) or ", ".join(fields)
            yield f"line 1, column {name!r}: unknown; allowed: {hint}"
    for name in (n for n, count in Counter(found).items() if count > 1):
        yield f"line 1, column {name!r}: given twice"
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in found:
            yield f"line 1, column {name!r}: missing"


def _cell_problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        column = problem["loc"][0]
        if problem["type"] == "missing":
            yield f"column {column!r}: found nothing, a value is needed"
        else:
            yield f"column {column!r}: found {problem['input']!r}, allowed: {_allowed(problem)}"


def _allowed(problem: ErrorDetails) -> str:
    if problem["type"].startswith("date"):
        return "a date such as 2026-12-31"
    return problem["msg"].removeprefix("Input should be ").replace("String", "text")


def _duplicates(rows: list[tuple[int, T]], unique: tuple[str, ...]) -> Iterator[str]:
    seen: dict[tuple[object, ...], int] = {}
    for line, row in rows:
        key = tuple(getattr(row, name) for name in unique)
        first = seen.setdefault(key, line)
        if first != line:
            named = ", ".join(str(part) for part in key)
            yield f"line {line}: {named} stands on line {first} already"
