"""``flopwise catalog``: what accelerators, models, prices and places are known; is a file right."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(help="Accelerators, models, prices and places.", no_args_is_help=True)

BAD_INPUT, NOT_FOUND = 2, 4  # exit codes

Row = dict[str, Any]


class Catalog(StrEnum):
    """What there is a table of."""

    ACCELERATORS = "accelerators"
    MODELS = "models"
    PRICES = "prices"
    PLACES = "places"
    EGRESS = "egress"


class Output(StrEnum):
    """How rows are printed: some columns, all, or for another program."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    CSV = "csv"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How rows are printed.")]

SHORT = {
    Catalog.ACCELERATORS: (
        "id",
        "memory_gib",
        "memory_bandwidth_gbps",
        "bf16_tflops",
        "fp16_tflops",
        "fp8_tflops",
        "gpus_per_domain",
        "scale_up_gbps",
        "tdp_watts",
    ),
    Catalog.MODELS: ("id", "parameters_b", "active_b", "layers", "hidden", "kv_kib_per_token"),
    Catalog.PRICES: (
        "accelerator",
        "purchase",
        "usd_per_gpu_hour",
        "gpus_per_node",
        "provider",
        "region",
        "instance_type",
        "date",
    ),
    Catalog.PLACES: ("provider", "region", "jurisdiction", "latitude", "longitude", "location"),
    Catalog.EGRESS: ("provider", "way", "usd_per_gib", "date"),
}


@app.command("list")
def list_rows(catalog: Catalog, output: OutputOption = Output.TABLE) -> None:
    """All rows of one catalog."""
    rows = _rows(catalog)
    if output is Output.TABLE:
        rows = [{name: row[name] for name in SHORT[catalog]} for row in rows]
    typer.echo(_render(rows, output))


@app.command()
def show(name: str, output: OutputOption = Output.TABLE) -> None:
    """Everything that is known of one accelerator or model, by its id or an alias."""
    row = _one(name)
    if output in (Output.TABLE, Output.WIDE):
        width = max(map(len, row))
        typer.echo("\n".join(f"{key:<{width}}  {_cell(value)}" for key, value in row.items()))
    else:
        typer.echo(_render([row], output))


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="Default: the catalogs that ship.")] = None,
) -> None:
    """Say what is wrong with a catalog file: every error, with its line and column."""
    from cost_models.tables import TableError

    try:
        found = _read(file) if file else {c: len(_rows(c)) for c in Catalog}
    except TableError as error:
        _fail(error.problems, BAD_INPUT)
    typer.echo("\n".join(f"{catalog}: {rows} rows, no errors" for catalog, rows in found.items()))


def _rows(catalog: Catalog) -> list[Row]:
    from cost_models.accelerators import accelerators
    from cost_models.architectures import architectures
    from cost_models.egress import egress_prices
    from cost_models.places import regions
    from cost_models.prices import offerings

    if catalog is Catalog.ACCELERATORS:
        return [dataclasses.asdict(row) for row in accelerators().values()]
    if catalog is Catalog.MODELS:
        return [_model(row) for row in architectures().values()]
    if catalog is Catalog.PLACES:
        return [dataclasses.asdict(row) for row in regions().values()]
    if catalog is Catalog.EGRESS:
        return [dataclasses.asdict(row) for row in egress_prices().values()]
    rows = sorted(offerings(), key=lambda o: (o.accelerator, o.purchase, o.usd_per_gpu_hour))
    return [dataclasses.asdict(row) for row in rows]


def _model(row: Any) -> Row:
    """A model with what is computed from its numbers."""
    computed = {
        "parameters_b": round(row.parameters / 1e9, 3),
        "active_b": round(row.active_parameters / 1e9, 3),
        "kv_kib_per_token": round(row.kv_bytes_per_token("bf16") / 1024, 1),
    }
    return dataclasses.asdict(row) | computed


def _one(name: str) -> Row:
    from cost_models.accelerators import accelerators, resolve_accelerator
    from cost_models.architectures import architectures, resolve_architecture
    from cost_models.names import UnknownName, nearest

    try:
        return dataclasses.asdict(resolve_accelerator(name))
    except UnknownName:
        pass
    try:
        return _model(resolve_architecture(name))
    except UnknownName:
        known = nearest(name.lower(), (*accelerators(), *architectures()))
        asked = "`catalog list accelerators` and `catalog list models` show what there is"
        hint = f"did you mean {' or '.join(known)}?" if known else asked
        _fail([f"no accelerator or model is called {name!r}; {hint}"], NOT_FOUND)


def _read(file: Path) -> dict[Catalog, int]:
    """Rows of a user's file, read as the catalog that its columns look like."""
    from cost_models.accelerators import read_accelerators
    from cost_models.architectures import read_architectures
    from cost_models.egress import read_egress_prices
    from cost_models.places import read_regions
    from cost_models.prices import read_offerings

    readers: dict[Catalog, Callable[[Path], Sequence[Any]]] = {
        Catalog.ACCELERATORS: read_accelerators,
        Catalog.MODELS: read_architectures,
        Catalog.PRICES: read_offerings,
        Catalog.PLACES: read_regions,
        Catalog.EGRESS: read_egress_prices,
    }
    catalog = _kind(file)
    return {catalog: len(readers[catalog](file))}


def _kind(file: Path) -> Catalog:
    """The catalog that shares the most columns with the file's first line."""
    from cost_models.accelerators import Accelerator
    from cost_models.architectures import Architecture
    from cost_models.egress import EgressPrice
    from cost_models.places import Region
    from cost_models.prices import Offering

    types = {
        Catalog.ACCELERATORS: Accelerator,
        Catalog.MODELS: Architecture,
        Catalog.PRICES: Offering,
        Catalog.PLACES: Region,
        Catalog.EGRESS: EgressPrice,
    }
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            found = set(lines.readline(10_000).strip().split(","))
    except OSError as error:
        _fail([f"{file}: {error.strerror}"], BAD_INPUT)
    shared = {c: len(found & {f.name for f in dataclasses.fields(t)}) for c, t in types.items()}
    return max(shared, key=lambda catalog: shared[catalog])


def _render(rows: Sequence[Row], output: Output) -> str:
    if output is Output.JSON:
        return json.dumps(rows, indent=2, default=str)
    if output is Output.CSV:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
        return text.getvalue().rstrip("\n")
    return _table(rows)


def _table(rows: Sequence[Row]) -> str:
    """Columns by the widest cell, numbers to the right."""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [isinstance(rows[0][name], int | float) for name in names]
    return "\n".join(_line(line, widths, right) for line in cells)


def _line(cells: Iterable[str], widths: Iterable[int], right: Iterable[bool]) -> str:
    columns = zip(cells, widths, right, strict=True)
    return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in columns).rstrip()


def _cell(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fail(problems: Iterable[str], code: int) -> NoReturn:
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(code)
