"""Tables from CSV files. An error names the line and the column."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core.checks import nearest
from rnnx._core.files import open_regular

_MISSING = {"", "na", "n/a", "nan", "null", "none"}
_BOOLEANS = {"true": 1.0, "false": 0.0}

Converted = tuple[np.ndarray, tuple[int, str] | None]  # and where a cell is wrong, and what was expected


def read_table(
    path: str | Path, *, numbers: Sequence[str] = (), times: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    r"""Read columns of a CSV file: UTF-8 text with a header, and values separated by commas, semicolons or tabs.

    Parameters
    ----------
    path : path
    numbers : list of str
        Columns of numbers. Empty cells, NA, NaN and null are NaN; true and false are 1 and 0.
    times : list of str
        Columns of numbers or of dates as ISO writes them (2024-01-31, 2024-01-31 06:00); UTC if they have a time zone.
    names : list of str
        Columns of names, as integers if all of them are integers, otherwise as text.

    Returns
    -------
    dict of str to array
        The columns, for `sequences_from_frame` and `series_from_frame`.

    Raises
    ------
    ValueError, OSError
        If the file is not such a table, a column is missing, or a cell is wrong; times and names must not be missing.

    See Also
    --------
    sequences_from_frame, series_from_frame

    Notes
    -----
    A file that was cut within its last number looks like one that ends without a line end, which is read as it is.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from rnnx.data import read_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "load.csv"
    ...     _ = path.write_text("day,load\n2024-01-30,5\n2024-01-31,\n")
    ...     read_table(path, times=["day"], numbers=["load"])["load"].tolist()
    [5.0, nan]
    """
    kinds: dict[str, Callable[[list[str], bool], Converted]] = dict.fromkeys(numbers, _numbers)
    kinds |= dict.fromkeys(times, _times) | dict.fromkeys(names, _names)
    with _opened(path) as file:
        cells, lines, comma = _cells(path, file, [*kinds])
    found = {}
    for name, convert in kinds.items():
        values, wrong = convert(cells[name], comma)
        if wrong is not None:
            place, expected = wrong
            cell = cells[name][place]
            got = f"got {cell!r:.50}" if cell else "the cell is empty"
            raise ValueError(f"{path}, line {lines[place]}: the column {name!r} must hold {expected}; {got}")
        found[name] = values
    return found


def header_of(path: str | Path) -> list[str]:
    """Return the names of the columns; errors as for `read_table`."""
    with _opened(path) as file:
        return _header(path, file)[0]


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with open_regular(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from None


def _header(path: str | Path, file: Any) -> tuple[list[str], str]:
    """Return the names of the columns, and what separates them."""
    first = file.readline()
    if not first.strip():
        raise ValueError(f"{path} must begin with a line of the names of its columns; it is empty")
    delimiter = max(",;\t", key=first.count)
    return [name.strip() for name in next(csv.reader([first], delimiter=delimiter))], delimiter


def _cells(path: str | Path, file: Any, names: list[str]) -> tuple[dict[str, list[str]], list[int], bool]:
    """Return the cells of columns, the line of each row, and whether numbers may have a decimal comma."""
    header, delimiter = _header(path, file)
    for name in names:
        if header.count(name) != 1:
            if name in header:
                raise ValueError(f"{path} has several columns {name!r}")
            raise ValueError(f"{path} has no column {name!r}{nearest(name, header)}")
    places = [header.index(name) for name in names]
    columns: list[list[str]] = [[] for _ in names]
    reader, lines = csv.reader(file, delimiter=delimiter), []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            line = reader.line_num + 1
            raise ValueError(f"{path}, line {line}: there are {len(row)} values for {len(header)} columns")
        lines.append(reader.line_num + 1)
        for column, place in zip(columns, places, strict=True):
            column.append(row[place].strip())
    if not lines:
        raise ValueError(f"{path} has no rows below its header")
    return dict(zip(names, columns, strict=True)), lines, delimiter == ";"


def _converted(cells: list[str], convert: Callable[[str], Any], expected: str) -> Converted:
    values = []
    for place, cell in enumerate(cells):
        try:
            values.append(convert(cell))
        except (OverflowError, ValueError):
            return np.zeros(0), (place, expected)
    return np.array(values), None


def _numbers(cells: list[str], comma: bool) -> Converted:
    def number(cell: str) -> float:
        word = cell.lower()
        if word in _MISSING:
            return np.nan
        value = _BOOLEANS[word] if word in _BOOLEANS else float(cell.replace(",", ".") if comma else cell)
        if not np.isfinite(value):
            raise ValueError
        return value

    return _converted(cells, number, "numbers")


def _times(cells: list[str], _comma: bool) -> Converted:
    def date(cell: str) -> np.datetime64:
        time = datetime.fromisoformat(f"{cell}-01" if len(cell) == 7 and cell[4] == "-" else cell)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
        return np.datetime64(time, "us" if time.microsecond else "s")

    def number(cell: str) -> float:
        if not np.isfinite(value := float(cell)):
            raise ValueError
        return value

    kind: Callable[[str], Any] = number
    try:
        number(cells[0])
    except ValueError:
        kind = date
    times, wrong = _converted(cells, kind, "numbers, or dates such as 2024-01-31 or 2024-01-31 06:00")
    if wrong is None and kind is number and (times == np.rint(times)).all():
        times = times.astype(np.int64)
    return times, wrong


def _names(cells: list[str], _comma: bool) -> Converted:
    def name(cell: str) -> str:
        if not cell:
            raise ValueError
        return cell

    if all(_is_whole(cell) for cell in cells):
        return np.array([int(cell) for cell in cells]), None
    values, wrong = _converted(cells, name, "names")
    return values.astype(object), wrong


def _is_whole(cell: str) -> bool:
    digits = cell.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) < 19 and str(int(cell)) == cell
