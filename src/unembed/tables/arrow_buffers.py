"""How much an Arrow file's buffers hold once they are decompressed, told before any of them is.

Arrow's reader takes the memory that a compressed buffer says it needs. The messages of a stream, of which a file is
made too, are FlatBuffers that say where each buffer lies; its first eight bytes are its size.
"""

import struct
from collections.abc import Iterator
from typing import Any

from unembed.errors import DataError
from unembed.tables.streams import LARGE, TIMES

DICTIONARY, BATCH = 2, 3  # kinds of messages that have buffers


def check_buffers(messages: Iterator[Any], name: str) -> None:
    """Refuse a message whose buffers would take more than 256 MiB and than 200 times what they do in the file.

    Args:
        messages: `pyarrow.ipc.Message`s.
        name: what the error calls the file.

    Raises:
        DataError: there is one, or one that is not as Arrow writes it.
    """
    for number, message in enumerate(messages):
        try:
            taken, body = _taken(memoryview(message.metadata), message.body)
        except (struct.error, IndexError) as error:
            raise DataError(f"{name}: cannot be read as Arrow (message {number} is damaged)") from error
        if taken > (limit := max(LARGE, TIMES * body)):
            raise DataError(
                f"{name}: message {number} would take {taken >> 20:,} MiB of memory, expected at most {limit >> 20:,}"
            )


def _taken(data: memoryview, body: Any) -> tuple[int, int]:
    """Bytes of a message's buffers once decompressed, and as they are."""
    held = memoryview(body) if body is not None else memoryview(b"")
    table = _at(data, "<I", 0)
    kind, header = _field(data, table, 1), _field(data, table, 2)
    kind = _at(data, "<B", kind) if kind else 0
    if kind not in (DICTIONARY, BATCH) or not header:
        return 0, len(held)
    batch: int | None = _target(data, header)
    if kind == DICTIONARY and batch is not None:
        inner = _field(data, batch, 1)
        batch = _target(data, inner) if inner else None
    buffers = _field(data, batch, 2) if batch is not None else 0
    if batch is None or not buffers or not _field(data, batch, 3):  # nothing is compressed
        return 0, len(held)
    vector = _target(data, buffers)
    taken = 0
    for number in range(_at(data, "<I", vector)):
        offset, size = struct.unpack_from("<qq", data, vector + 4 + 16 * number)
        if size > 0:
            declared = _at(held, "<q", offset)
            taken += size if declared < 0 else declared  # -1: this one is not
    return taken, len(held)


def _at(data: memoryview, form: str, place: int) -> int:
    if place < 0:
        raise IndexError(place)
    found: int = struct.unpack_from(form, data, place)[0]
    return found


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table lies; 0 where it is left out."""
    layout = table - _at(data, "<i", table)
    if 4 + 2 * number >= _at(data, "<H", layout):
        return 0
    offset = _at(data, "<H", layout + 4 + 2 * number)
    return table + offset if offset else 0


def _target(data: memoryview, place: int) -> int:
    return place + _at(data, "<I", place)
