"""Files of lines as tables: text, one text a line; JSON lines and documents; CSV and TSV with a header."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.tables.documents import ITSELF, read_json
from unembed.tables.streams import LONGEST_LINE, WIDEST, read_lines, reason
from unembed.tables.table import Batch, at, names_of

ROWS = 1024  # of a batch
LARGE = 1 << 24  # characters from which a batch is full
NAMED_BY = 100  # first rows of JSON whose keys are the columns: not every one has them all

TEXT = "text"  # column of a text file


class TextLines:
    """One text a line; an empty line is an empty text."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def names(self) -> list[str]:
        return [TEXT]

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        lines = ((number, line, len(line)) for number, line in read_lines(self.path, self.name))
        for numbers, texts in _grouped(itertools.islice(lines, start, None)):
            yield Batch(numbers[0] - 1, dict.fromkeys(columns, texts), numbers)


class JsonRows:
    """JSON lines or a JSON document (`documents`); columns are keys, those of objects within objects with dots."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def names(self) -> list[str]:
        rows = itertools.islice(read_json(self.path, self.name), NAMED_BY)
        found = next((names_of(row) for _, row, _ in rows), [])
        if found == [ITSELF]:
            return found
        return list(dict.fromkeys([*found, *(name for _, row, _ in rows for name in names_of(row))]))

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        first = start
        for numbers, trees in _grouped(itertools.islice(read_json(self.path, self.name), start, None)):
            yield Batch(first, {column: [at(tree, column) for tree in trees] for column in columns}, numbers)
            first += len(trees)


class DelimitedRows:
    """CSV or TSV: the first line names the columns. Every value is a string; an empty one is None.

    Where the first line holds numbers alone there are no names, and each row is one list of numbers.
    """

    def __init__(self, path: Path, name: str, delimiter: str) -> None:
        self.path, self.name, self.delimiter = path, name, delimiter

    def names(self) -> list[str]:
        header = next((record for _, record, _ in self._records()), [])
        return [ITSELF] if _all_numbers(header) else header

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        records = self._records()
        first, begun = start, next(records, None)
        header = begun[1] if begun else []
        bare = _all_numbers(header)
        if begun and bare:
            records = itertools.chain([begun], records)
        places = {column: 0 if bare else header.index(column) for column in columns if header}
        for numbers, rows in _grouped(itertools.islice(records, start, None)):
            for number, row in zip(numbers, rows, strict=True):
                if len(row) != len(header):
                    raise DataError(
                        f"{self.name}: line {number} has {len(row)} values, expected {len(header)} as in the header"
                    )
            if bare:
                yield Batch(first, {name: [_floats(row) for row in rows] for name in columns}, numbers)
            else:
                found = {name: [row[place] or None for row in rows] for name, place in places.items()}
                yield Batch(first, found, numbers)
            first += len(rows)

    def _records(self) -> Iterator[tuple[int, list[str], int]]:
        """Last line, values and size of each record that is not blank, the header first."""
        reached = size = fields = 0  # of the record that is being read, which quotes may make as long as the file

        def lines() -> Iterator[str]:
            nonlocal reached, size, fields
            for reached, line in read_lines(self.path, self.name):
                size, fields = size + len(line), fields + line.count(delimiter)
                if size > LONGEST_LINE or fields > WIDEST:
                    raise DataError(
                        f"{self.name}: the record that ends at line {reached} or later has more than "
                        f"{LONGEST_LINE >> 20} MiB or {WIDEST:,} values"
                    )
                yield line + "\n"

        csv.field_size_limit(LONGEST_LINE)
        delimiter = self.delimiter
        source = lines()
        head = next(source, "")
        if delimiter == "," and ";" in head and "," not in head:
            delimiter = ";"
        try:
            for record in csv.reader(itertools.chain([head], source), delimiter=delimiter, strict=True):
                size = fields = 0
                if record:
                    yield reached, record, sum(map(len, record))
        except csv.Error as error:
            raise DataError(f"{self.name}: line {reached} is not CSV ({reason(error)})") from error


def _floats(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _all_numbers(values: Sequence[str]) -> bool:
    return len(values) > 1 and _floats(values) is not None


def _grouped(rows: Iterator[tuple[int, Any, int]]) -> Iterator[tuple[list[int], list[Any]]]:
    """Line numbers and values of rows that together are not many and not large."""
    numbers: list[int] = []
    values: list[Any] = []
    total = 0
    for number, value, size in rows:
        numbers.append(number)
        values.append(value)
        total += size
        if len(values) == ROWS or total >= LARGE:
            yield numbers, values
            numbers, values, total = [], [], 0
    if values:
        yield numbers, values
