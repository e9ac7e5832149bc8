"""Values of a table's column as Python has them, and as JSON can say them, bounded in size."""

import datetime
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unembed.errors import DataError
from unembed.tables.streams import reason

LONGEST = 4096  # characters of one value that is copied into a result
DEEPEST = 16  # lists and objects within each other


def listed_values(values: Any, where: str) -> Sequence[Any]:
    """A batch's column as a sequence of Python values.

    Dates that Python does not have, such as those in nanoseconds, become text.

    Raises:
        DataError: they are not to be had as Python values either way; `where` is what the message calls them.
    """
    if not hasattr(values, "to_pylist"):
        found: Sequence[Any] = values
        return found
    import pyarrow as pa

    words: Any = lambda: values.cast(pa.string()).to_pylist()  # noqa: E731
    try:
        if pa.types.is_timestamp(values.type) and values.type.unit == "ns":
            return [None if value is None else value.replace(" ", "T", 1) for value in words()]
        try:
            return list(values.to_pylist())
        except (ValueError, OverflowError, LookupError):  # a date or time zone that Python does not have
            return list(words())
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        raise DataError(f"{where}: cannot be read ({reason(error)})") from error


class _TooLargeError(Exception):
    """A list or an object passes `LONGEST`."""


def plain(value: Any) -> Any:
    """A value as JSON can say it.

    Bytes are hexadecimal digits, dates ISO 8601, decimals and durations text, NaN and infinities None, and half of a
    character is a question mark. A text of more than `LONGEST` characters is cut, and a larger list or object is left
    out, as is one nested more than `DEEPEST` deep; both say so.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        text = bytes(value[: LONGEST // 2 + 1]).hex()
        return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(value):,} bytes)"
    try:
        found = _plain(value, [1 << 62])
    except _TooLargeError:
        kind = "object" if isinstance(value, dict) else "list"
        return f"... ({kind} of more than {LONGEST:,} characters, or nested too deep)"
    if isinstance(found, str) and len(found) > LONGEST:
        return f"{found[:LONGEST]} ... ({len(found):,} characters)"
    return found


def _plain(value: Any, room: list[int], depth: int = 0) -> Any:
    """The value; `room` holds the characters that what is in a list or an object may still take."""
    if isinstance(value, np.ndarray | np.generic):
        if value.size > LONGEST:
            raise _TooLargeError
        value = value.tolist()
    if isinstance(value, dict | list | tuple):
        room[0] = min(room[0], LONGEST) - 2
        if depth == DEEPEST or room[0] < 0:
            raise _TooLargeError
        if isinstance(value, dict):
            return {_plain(str(key), room, depth): _plain(one, room, depth + 1) for key, one in value.items()}
        return [_plain(one, room, depth + 1) for one in value]
    match value:
        case None | bool() | int():
            found: Any = value
        case float():
            found = float(value) if math.isfinite(value) else None
        case datetime.date() | datetime.time():  # a datetime is a date
            found = value.isoformat()
        case bytes():
            found = value[:LONGEST].hex()
        case _:
            found = str(value).encode("utf-8", "replace").decode()
    room[0] -= len(found) + 4 if isinstance(found, str) else len(str(found)) + 2
    if room[0] < 0:
        raise _TooLargeError
    return found
