"""Catalog files are checked whole: every error at once, with its line and column."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.tables import (
    AtLeastOne,
    Id,
    Positive,
    Share,
    TableError,
    Words,
    parse_table,
    read_table,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    id: Id
    width: Positive
    boards: AtLeastOne = 1
    full_fraction: Share = 0.0
    words: Words = ()
    date: dt.date | None = None


def parse(text: str) -> tuple[Shelf, ...]:
    return parse_table(text, Shelf, source="shelves.csv", unique=("id",))


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(TableError) as caught:
        parse(text)
    return caught.value.problems


def test_cells_become_fields_and_empty_cells_their_defaults() -> None:
    text = "id,width,boards,words,date\na-1,2.5,3,x y,2026-07-20\nb,1,,,\n"
    assert parse(text) == (
        Shelf(id="a-1", width=2.5, boards=3, words=("x", "y"), date=dt.date(2026, 7, 20)),
        Shelf(id="b", width=1.0),
    )


def test_every_error_of_a_file_is_reported_with_its_line_and_column() -> None:
    text = "id,width,boards,full_fraction\na,-1,2,0\nB c,nan,0,1.5\na,1,,\na,1,,\n"
    at_most_1 = "less than or equal to 1"
    a_pattern = "text should match pattern '^[a-z0-9][a-z0-9.-]*$'"
    assert problems_of(text) == (
        "shelves.csv: line 2, column 'width': found '-1', allowed: greater than 0",
        f"shelves.csv: line 3, column 'id': found 'B c', allowed: {a_pattern}",
        "shelves.csv: line 3, column 'width': found 'nan', allowed: a finite number",
        "shelves.csv: line 3, column 'boards': found '0', allowed: greater than or equal to 1",
        f"shelves.csv: line 3, column 'full_fraction': found '1.5', allowed: {at_most_1}",
        "shelves.csv: line 5: a stands on line 4 already",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: found nothing, a line of column names is needed"),
        ("id,width\n", "line 1: found no rows, at least one is needed"),
        ("id\na\n", "line 1, column 'width': missing"),
        ("id,width,widht\na,1,2\n", "line 1, column 'widht': unknown; allowed: width"),
        ("id,width,width\na,1,2\n", "line 1, column 'width': given twice"),
        ("id,width\na\n", "line 2, column 'width': found nothing, a value is needed"),
        ("id,width\na,1,2\n", "line 2, column 3: found '2', more cells than columns"),
        ('id,width\na,"1\n', "line 2: not CSV (unexpected end of data)"),
    ],
)
def test_a_file_of_the_wrong_shape_says_so_in_one_line(text: str, problem: str) -> None:
    assert problems_of(text) == (f"shelves.csv: {problem}",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none.csv", "No such file or directory"), ("binary.csv", "not UTF-8 text")],
)
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(TableError) as caught:
        read_table(tmp_path / name, Shelf, unique=("id",))
    assert caught.value.problems == (f"{tmp_path / name}: {reason}",)


@given(st.text(max_size=200))
def test_no_text_raises_anything_but_a_table_error(text: str) -> None:
    problems: tuple[str, ...] = ()
    try:
        parse(text)
    except TableError as error:
        problems = error.problems
    assert all(p.startswith("shelves.csv: line ") for p in problems)
    assert problems or "id" in text
