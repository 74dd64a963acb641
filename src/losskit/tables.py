"""Predictions and targets from a file with named columns, for the commands that look at data. Needs polars."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

READERS = {".csv": "read_csv", ".tsv": "read_csv", ".parquet": "read_parquet", ".json": "read_json",
           ".ndjson": "read_ndjson"}  # fmt: skip


def read(path: str | Path) -> Any:
    """The table in a file, as polars has it; the name's ending tells the format."""
    place = Path(path)
    reader = READERS.get(place.suffix.lower())
    if reader is None:
        _refuse(f"{place} must end in {', '.join(READERS)}")
    if not place.is_file():
        _refuse(f"there is no file {place}")
    try:
        import polars
    except ModuleNotFoundError:
        _refuse("reading data needs polars: pip install polars")
    options = {"separator": "\t"} if place.suffix.lower() == ".tsv" else {}
    try:
        table = getattr(polars, reader)(place, **options)
    except (polars.exceptions.PolarsError, OSError, ValueError) as problem:
        _refuse(f"{place} cannot be read: {str(problem).splitlines()[0]}")
    if not len(table):
        _refuse(f"{place} has no rows")
    return table


def column(table: Any, name: str) -> Any:
    """A column by its name."""
    if name not in table.columns:
        close = difflib.get_close_matches(name, table.columns, n=1)
        hint = f" Did you mean {close[0]}?" if close else f" There are {', '.join(table.columns[:20])}."
        _refuse(f"there is no column {name!r}.{hint}")
    return table[name]


def numbers(table: Any, name: str) -> Tensor:
    """A column of numbers, of yes and no too, in float64."""
    values = column(table, name)
    if not _numeric(values):
        _refuse(f"column {name!r} must be numbers, it has {values.dtype}: {values[0]!r}")
    _full(values, name)
    return torch.tensor(values.cast(float if str(values.dtype) != "Boolean" else int).to_list(), dtype=torch.float64)


def classes(table: Any, name: str, predictions: Sequence[str]) -> Tensor:
    """A column of classes as indices: numbers from 0 on, or names, which then are those of the prediction columns."""
    values = column(table, name)
    if values.dtype.is_integer() or str(values.dtype) == "Boolean":
        return numbers(table, name).long()
    if values.dtype.is_float():
        found = numbers(table, name)
        if bool((found != found.floor()).any()):
            _refuse(f"column {name!r} must be classes, it has {float(found[found != found.floor()][0])}")
        return found.long()
    ends = {text: i for i, column_ in enumerate(predictions) for text in (column_, column_.rpartition("_")[2])}
    unknown = next((text for text in values if text not in ends), None)
    if unknown is not None:
        _refuse(f"column {name!r} has the class {unknown!r}, and no prediction column has its name")
    return torch.tensor([ends[text] for text in values])


def target(table: Any, name: str) -> Tensor:
    """A column as a target: numbers, or names as classes from 0 on, in the order of the alphabet."""
    values = column(table, name)
    if _numeric(values):
        return numbers(table, name)
    ends = {text: i for i, text in enumerate(sorted(set(values.drop_nulls().to_list()), key=str))}
    _full(values, name)
    return torch.tensor([float(ends[text]) for text in values], dtype=torch.float64)


def _numeric(values: Any) -> bool:
    return values.dtype.is_numeric() or str(values.dtype) == "Boolean"


def _full(values: Any, name: str) -> None:
    """Refuse a column with empty cells."""
    if values.null_count():
        _refuse(f"column {name!r} has {values.null_count()} empty cells, the first in row {values.is_null().arg_max()}")


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)
