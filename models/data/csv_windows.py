"""CSV files of measurements in time order, cut into windows."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.errors import UserError
from models.data.raw import (
    RawPart,
    RawSplit,
    Source,
    check_size,
    count,
    fraction,
    labels_of_names,
    names,
    positive_int,
    read_options,
)

_LARGEST = 3e38  # what float32 holds
_MOST_PLAIN = 1000  # labels that are remembered by how they are written

_OPTIONS = {"window": positive_int, "stride": positive_int, "label": str, "classes": names}


class _Rows(NamedTuple):
    features: NDArray[np.float32]  # [T, F]
    labels: list[str]


class _Series(NamedTuple):
    features: NDArray[np.float32]  # [T, F], in the file's own units
    labels: NDArray[np.int64]  # [T]
    class_names: tuple[str, ...] | None


class CsvStream(NamedTuple):
    """All of a file in time order, in its own units, and how many samples later a label is known."""

    part: RawPart
    class_names: tuple[str, ...] | None
    label_delay: int


def read_csv(source: Source) -> RawSplit:
    """Read rows of features and a label; the last part of the time is the test part.

    The label is the column of the header `label`, else the last one. A window of w rows gives a sample
    [F, w] (w = 1: [F]) that bears the label of its last row; no window crosses from training to test.
    Features are standardised by mean and deviation of the training part.
    Options: `window=1`, `stride=window`, `label=COLUMN`, `classes=a,b,c`, `test=0.2` (share held out);
    `delay=N` is of streams (`read_csv_stream`) and changes nothing here.

    Raises:
        UserError: a row is ragged or holds something else than numbers, or there are too few rows.
    """
    options = read_options(source, {**_OPTIONS, "test": fraction, "delay": count})
    window = options.get("window", 1)
    series = _read_series(source.path, options)
    num_rows = len(series.labels)
    split = num_rows - math.ceil(num_rows * options.get("test", 0.2))
    if min(split, num_rows - split) < window:
        raise UserError(
            f"{source.path}: {num_rows} rows leave less than one window of {window} rows for training or "
            "test. Give more rows or a smaller ?window=."
        )
    mean = series.features[:split].mean(axis=0, dtype=np.float64)
    deviation = series.features[:split].std(axis=0, dtype=np.float64)
    deviation[deviation < 1e-12] = 1.0  # a constant column says nothing; leave it at 0
    scaled = series.features  # of the file, nobody else has it
    for start in range(0, num_rows, 1024):  # in blocks: a board has no room for all in float64
        block = scaled[start : start + 1024]
        block[...] = (block - mean) / deviation
    return RawSplit(
        _windows(scaled[:split], series.labels[:split], source.path, options),
        _windows(scaled[split:], series.labels[split:], source.path, options),
        class_names=series.class_names,
    )


def read_csv_stream(source: Source) -> CsvStream:
    """Read rows of features and a label as they were measured, nothing held out and nothing scaled.

    Options are those of `read_csv` but for `test`, and `delay=0` (own samples before a sample's label).

    Raises:
        UserError: as `read_csv`, or something is to be held out.
    """
    if "test" in source.options:
        raise UserError(
            f"{source.path}: data option test= makes no sense for a stream: each of its samples is predicted "
            "before it is learned, so nothing is held out. Leave it out."
        )
    options = read_options(source, {**_OPTIONS, "delay": count})
    series = _read_series(source.path, options)
    window = options.get("window", 1)
    if len(series.labels) < window:
        raise UserError(
            f"{source.path}: {len(series.labels)} rows are less than one window of {window} rows. "
            "Give more rows or a smaller ?window=."
        )
    part = _windows(series.features, series.labels, source.path, options)
    return CsvStream(part, series.class_names, options.get("delay", 0))


def is_csv(path: Path) -> bool:
    """Whether a file is one of these, by its name."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def _read_series(path: Path, options: Mapping[str, Any]) -> _Series:
    rows = _read_rows(path, options.get("label"))
    given = options.get("classes")
    numbers = labels_of_names(rows.labels, given, str(path))
    labels = np.array([numbers[name] for name in rows.labels], np.int64)
    in_order = tuple(sorted(numbers, key=lambda name: numbers[name]))
    class_names = None if given is None and all(name.isdecimal() for name in in_order) else in_order
    return _Series(rows.features, labels, class_names)


def _windows(
    values: NDArray[np.float32], labels: NDArray[np.int64], path: Path, options: Mapping[str, Any]
) -> RawPart:
    window = options.get("window", 1)
    stride = options.get("stride", window)
    if window == 1:
        return RawPart(values[::stride], labels[::stride], str(path))
    # A view: overlapping windows share the memory of the series.
    windows = np.lib.stride_tricks.sliding_window_view(values, window, axis=0)[::stride]
    return RawPart(windows, labels[window - 1 :: stride], str(path))


def _read_rows(path: Path, label: str | None) -> _Rows:
    features, labels = array("f"), []
    plain: dict[str, str] = {}  # of cells: few labels, in many rows
    num_columns = label_column = -1
    line_number = 0
    try:
        with _text(path) as file:
            reader = csv.reader(file)
            for cells in reader:
                line_number = reader.line_num
                if not cells:
                    continue
                if num_columns < 0:
                    num_columns = len(cells)
                    has_header = _is_header(cells, label)
                    label_column = _label_column(cells, label, path, has_header=has_header)
                    if has_header:
                        continue
                if len(cells) != num_columns:
                    raise UserError(
                        f"{path}, line {line_number}: {len(cells)} columns, the lines before {num_columns}."
                    )
                cell = cells.pop(label_column)
                text = plain.get(cell) or _label_text(cell, path, line_number)
                if len(plain) < _MOST_PLAIN:
                    plain[cell] = text
                labels.append(text)
                features.extend(_numbers(cells, path, line_number))
                if len(labels) % 65536 == 0:
                    check_size(len(labels), 4 * num_columns, str(path))
    except (csv.Error, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}, after line {line_number}: not readable CSV text ({error}). Correct or copy it again."
        ) from None
    if not labels:
        raise UserError(f"{path}: holds no rows. Give a line of features and a label for each moment.")
    return _Rows(np.frombuffer(features, np.float32).reshape(len(labels), num_columns - 1), labels)


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOBase]:
    if path.name.lower().endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file  # type: ignore[misc]
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file


def _is_header(cells: list[str], label: str | None) -> bool:
    """A first line is a header if it names the label or a feature of it is no number."""
    stripped = [cell.strip() for cell in cells]
    if (label or "label") in stripped and not (label or "").isdecimal():
        return True
    return any(not _is_number(cell) for cell in stripped[:-1])


def _label_column(cells: list[str], label: str | None, path: Path, *, has_header: bool) -> int:
    if len(cells) < 2:
        raise UserError(f"{path}: one column only. Give features and a label, separated by commas.")
    if not has_header:
        if label is not None:
            raise UserError(f"{path}: has no header line, so ?label={label} names no column.")
        return len(cells) - 1
    stripped = [cell.strip() for cell in cells]
    if label is not None and label not in stripped:
        raise UserError(f"{path}: no column '{label}', only {', '.join(stripped[:20])}.")
    return stripped.index(label or "label") if (label or "label") in stripped else len(cells) - 1


def plain_label(text: str) -> str:
    """A label in its plainest form: without blanks, and 1, 1.0 and 01 as one class."""
    plain = text.strip()
    return str(int(float(plain))) if _is_number(plain) and float(plain).is_integer() else plain


def _label_text(cell: str, path: Path, line_number: int) -> str:
    text = plain_label(cell)
    if not text:
        raise UserError(f"{path}, line {line_number}: the label is empty. Fill it or remove the line.")
    return text


def _numbers(cells: list[str], path: Path, line_number: int) -> list[float]:
    try:
        values = list(map(float, cells))
    except ValueError:
        values = [math.nan]
    if -_LARGEST < min(values) <= max(values) < _LARGEST and not math.isnan(sum(values)):
        return values
    for cell in cells:
        if not _is_number(cell) or not abs(float(cell)) < _LARGEST:
            raise UserError(
                f"{path}, line {line_number}: '{cell[:40]}' is not a finite number. Fill it or remove the "
                "line."
            )
    return values


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
