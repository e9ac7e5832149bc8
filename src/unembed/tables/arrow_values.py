"""Arrow arrays whose values take little memory as Python objects.

An array may say the same bytes any number of times, by dictionaries and views, and lists of nothing say billions of
values in no bytes at all. So only plain kinds of columns are read, and as many rows at once as are small together.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from unembed.errors import DataError
from unembed.tables.streams import LONGEST_LINE, WIDEST

OBJECT = LONGEST_LINE // WIDEST  # bytes that a number takes as a Python object, about
NUMBER = 4  # bytes that it takes in a file
DEEPEST = 8  # lists within lists


def check_type(kind: Any, place: str) -> None:
    """Raise DataError of a column of another kind than numbers, text, bytes, dates, and lists and structs of these."""
    if not _is_plain(kind, 0):
        raise DataError(f"{place} is of type {kind!s:.100}, expected lists of numbers, text or bytes")


def _is_plain(kind: Any, depth: int) -> bool:
    import pyarrow.types as pt

    bare = _storage(kind)
    if pt.is_dictionary(bare):
        bare = bare.value_type if depth == 0 else bare
    if pt.is_list(bare) or pt.is_large_list(bare) or pt.is_fixed_size_list(bare):
        return depth < DEEPEST and _is_plain(bare.value_type, depth + 1)
    if pt.is_struct(bare):
        return depth < DEEPEST and bare.num_fields > 0 and all(_is_plain(one.type, depth + 1) for one in bare)
    if pt.is_string(bare) or pt.is_large_string(bare) or pt.is_floating(bare) or pt.is_integer(bare):
        return True
    if pt.is_temporal(bare) or pt.is_decimal(bare):
        return True
    flat = pt.is_primitive(bare) or pt.is_null(bare) or _is_bytes(bare) or _is_view(bare)
    return depth == 0 and bool(flat)  # in lists, nulls and values of no width would cost nothing in the file


def parts(columns: Mapping[str, Any], row: int, name: str) -> Iterator[tuple[int, int, int]]:
    """First row, row behind the last, and size in bytes of parts that take at most about 64 MiB as Python objects.

    Args:
        columns: arrays of the same length.
        row: number of their first row.
        name: of the file.

    Raises:
        DataError: a row is larger, or has more than 1,048,576 numbers.
    """
    sizes, held = (np.sum([_sizes(one, number) for one in columns.values()], axis=0) for number in (OBJECT, NUMBER))
    if (large := np.flatnonzero(sizes > LONGEST_LINE)).size:
        raise DataError(
            f"{name}: row {row + int(large[0])} has more than {WIDEST:,} numbers or {LONGEST_LINE >> 20} MiB of text"
        )
    first = total = 0
    for number, size in enumerate(sizes.tolist()):
        if total + size > LONGEST_LINE:
            yield first, number, int(held[first:number].sum())
            first, total = number, 0
        total += size
    yield first, len(sizes), int(held[first:].sum())


def _sizes(values: Any, number: int) -> Any:
    """Bytes that each row takes, int64 (n,), a number so many; a null in the place of text or a list takes none."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pt

    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind, count = values.type, len(values)
    if pt.is_dictionary(kind):
        inner = np.append(_sizes(values.dictionary, number), 0)
        return inner[values.indices.fill_null(len(inner) - 1).to_numpy(zero_copy_only=False)]
    if _is_view(kind):  # sixteen bytes a value, of which the first four are its length
        views = np.frombuffer(values.buffers()[1], "<i4").reshape(-1, 4)
        return views[values.offset : values.offset + count, 0].astype(np.int64)
    if getattr(kind, "value_type", None) is not None:
        lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if pt.is_floating(kind.value_type) or pt.is_integer(kind.value_type):
            return lengths * number
        inner = _sizes(values.flatten(), number)
        ends = np.concatenate([[0], np.cumsum(inner)])[np.concatenate([[0], np.cumsum(lengths)])]
        return np.diff(ends) + lengths
    if pt.is_struct(kind):
        return np.sum([_sizes(one, number) for one in values.flatten()], axis=0)
    if pt.is_string(kind) or pt.is_large_string(kind) or _is_bytes(kind):
        return pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.full(count, number, dtype=np.int64)


def _storage(kind: Any) -> Any:
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as pt

    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind))


def _is_view(kind: Any) -> bool:
    import pyarrow.types as pt

    return bool(pt.is_string_view(kind) or pt.is_binary_view(kind))
