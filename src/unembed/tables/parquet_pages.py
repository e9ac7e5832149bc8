"""How much a Parquet file's pages hold once they are decompressed and decoded, told before any of them is.

A few hundred bytes can stand for gigabytes: run lengths and dictionaries repeat a value any number of times, and a row
of a list cannot be read in parts. What the footer says of a column need not be true; the header before each page is
what the decoder goes by, so that those are read here, in thrift's compact format.
"""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.tables.streams import LARGE, LONGEST_LINE, TIMES

PADDING = 100  # bytes that Arrow reads beyond a column's own, since old writers left out a dictionary's header
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
LEVELS = 4  # bytes of a value's definition and repetition levels

Struct = dict[int, Any]


def rows_at_once(file: Any, path: Path, name: str, columns: Sequence[str], most: int) -> int:
    """How many rows of these columns can be decoded together, in at most about 256 MiB or 200 times the file's size.

    Args:
        file: the `pyarrow.parquet.ParquetFile`.
        name: what messages call it.
        most: rows that are enough; fewer where a value can be large.

    Raises:
        DataError: a page, or the lists of a row group, could take more.
    """
    schema, footer = file.schema, file.metadata
    leaves = [
        leaf
        for leaf in range(footer.num_columns)
        if any(f"{schema.column(leaf).path}.".startswith(f"{column}.") for column in columns)
    ]
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        limit = max(LARGE, TIMES * len(data))
        for group in range(footer.num_row_groups):
            for leaf in leaves:
                column = schema.column(leaf)
                place = f"{name}: column {column.path!r}, row group {group}"
                sizes, counts = [0], [0]
                try:
                    for size, count in _pages(data, footer.row_group(group).column(leaf)):
                        sizes.append(size)
                        counts.append(count)
                except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
                    raise DataError(f"{place}: cannot be read as Parquet (a page has no header)") from error
                largest = max(sizes)
                width = {**WIDTHS, "FIXED_LEN_BYTE_ARRAY": column.length}.get(column.physical_type, largest)
                repeated = column.max_repetition_level > 0
                taken = max(largest, sum(counts) * (width + LEVELS) if repeated else 0)
                if largest > LARGE or taken > limit:
                    raise DataError(
                        f"{place}: would take {taken >> 20:,} MiB of memory, expected at most {limit >> 20:,}"
                    )
                if not repeated and width > LEVELS:
                    most = min(most, max(1, LONGEST_LINE // width))
    return most


def _pages(data: mmap.mmap, chunk: Any) -> Iterator[tuple[int, int]]:
    """Decompressed size and number of values of each page of a column's chunk."""
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        place = min(place, chunk.dictionary_page_offset)
    end, seen = min(place + chunk.total_compressed_size + PADDING, len(data)), 0
    while 0 <= place < end and seen < chunk.num_values:
        header, place = _struct(data, place)
        count = (header.get(5) or header.get(8) or {}).get(
            1, 0
        )  # of a data page of either version; a dictionary has none
        if header[3] < 0 or header[2] < 0 or count < 0:
            raise ValueError("a negative size")
        yield header[2], count
        place, seen = place + header[3], seen + count


def _struct(data: mmap.mmap, place: int) -> tuple[Struct, int]:
    """The numbers and structs in a thrift struct, by their ids, and where it ends."""
    found: Struct = {}
    number = 0
    while head := data[place]:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _number(data, place)
        found[number], place = _value(data, place, head & 15)
    return found, place + 1


def _value(data: mmap.mmap, place: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, place
    if kind == 3:
        return data[place], place + 1
    if kind in (4, 5, 6):
        return _number(data, place)
    if kind == 7:
        return None, place + 8
    if kind == 8:
        size, place = _varint(data, place)
        return None, place + size
    if kind == 12:
        return _struct(data, place)
    raise ValueError(f"type {kind}, which no page's header has")


def _number(data: mmap.mmap, place: int) -> tuple[int, int]:
    found, place = _varint(data, place)
    return (found >> 1) ^ -(found & 1), place


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found, place
    raise ValueError("a number of more than 64 bits")
