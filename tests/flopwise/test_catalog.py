"""``flopwise catalog`` as a user calls it."""

import csv
import io
import json
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flopwise.catalog import app

CLI = CliRunner()


@pytest.mark.parametrize(
    ("catalog", "holds"),
    [
        ("accelerators", "h100-sxm5-80gb"),
        ("models", "llama-3.1-8b"),
        ("prices", "p5.48xlarge"),
        ("places", "eu-central-1"),
        ("egress", "cross_region"),
    ],
)
@pytest.mark.parametrize("output", ["table", "wide", "json", "csv"])
def test_each_catalog_is_listed_in_each_form(catalog: str, holds: str, output: str) -> None:
    result = CLI.invoke(app, ["list", catalog, "-o", output])
    assert (result.exit_code, result.stderr) == (0, "")
    assert holds in result.stdout


def test_listed_json_and_csv_hold_the_same_rows() -> None:
    rows = json.loads(CLI.invoke(app, ["list", "models", "-o", "json"]).stdout)
    cells = list(
        csv.DictReader(io.StringIO(CLI.invoke(app, ["list", "models", "-o", "csv"]).stdout))
    )
    assert [row["id"] for row in rows] == [row["id"] for row in cells]
    assert [str(row["layers"]) for row in rows] == [row["layers"] for row in cells]


@pytest.mark.parametrize(
    ("name", "line"),
    [("H100", "memory_gib"), ("meta-llama/Llama-3.1-8B", "parameters_b"), ("l4", "tdp_watts")],
)
def test_one_entry_is_shown_by_id_or_alias(name: str, line: str) -> None:
    result = CLI.invoke(app, ["show", name])
    assert result.exit_code == 0
    assert any(text.startswith(line) for text in result.stdout.splitlines())


def test_what_is_unknown_is_one_line_with_the_nearest_names_and_exit_code_4() -> None:
    result = CLI.invoke(app, ["show", "lama-3.1-8b"])
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith("no accelerator or model is called 'lama-3.1-8b'; did you mean")
    assert len(result.stderr.splitlines()) == 1


def test_what_looks_like_nothing_known_is_told_where_to_look() -> None:
    result = CLI.invoke(app, ["show", "nope"])
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == (
        "no accelerator or model is called 'nope'; `catalog list accelerators` and"
        " `catalog list models` show what there is\n"
    )


def test_the_catalogs_that_ship_are_without_errors() -> None:
    result = CLI.invoke(app, ["check"])
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        "accelerators",
        "models",
        "prices",
        "places",
        "egress",
    ]


@pytest.mark.parametrize("catalog", ["accelerators", "architectures", "prices"])
def test_a_file_is_read_as_the_catalog_that_it_looks_like(catalog: str, tmp_path: Path) -> None:
    bundled = resources.files("cost_models") / "data" / f"{catalog}.csv"
    file = tmp_path / "mine.csv"
    file.write_text(bundled.read_text(encoding="utf-8"), encoding="utf-8")
    result = CLI.invoke(app, ["check", str(file)])
    assert result.exit_code == 0
    assert result.stdout.endswith("rows, no errors\n")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1: found nothing, a line of column names is needed"),
        (b"\x00\xff" * 1000, "not UTF-8 text"),
        (b"provider,price\naws,1\n", "line 1, column 'price': unknown; allowed: "),
    ],
)
def test_a_bad_file_is_named_with_its_problem_and_exit_code_2(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    result = CLI.invoke(app, ["check", str(file)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{file}: {problem}")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = CLI.invoke(app, ["check", str(tmp_path / "none.csv")])
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path / 'none.csv'}: No such file or directory\n"
