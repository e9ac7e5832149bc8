"""Files of numbers as tables: NumPy arrays, safetensors, and the fvecs and bvecs of nearest-neighbour benchmarks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError
from unembed.tables.streams import head_of, kind_of, reason
from unembed.tables.table import Batch

ROWS = 4096  # of a batch
COLUMN = "embedding"  # of files whose one array has no name


class NpyRows:
    """A `.npy` file, memory-mapped; one of Python objects is refused, since it would be unpickled."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def names(self) -> list[str]:
        return [COLUMN]

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        held = kind_of(head_of(self.path))
        if held != "NumPy":
            raise DataError(f"{self.name}: is not a .npy file{f', holds {held} data' if held else ''}")
        try:
            with np.errstate(all="ignore"):  # of a size that overflows, which is an error below
                array = np.lib.format.open_memmap(self.path, mode="r")
        except Exception as error:  # its header is read as Python's literals, whose parsers have errors of their own
            if "object" in str(error).lower():
                raise DataError(
                    f"{self.name}: holds pickled Python objects, which are never loaded, expected numbers"
                ) from error
            raise DataError(f"{self.name}: is truncated or not a whole .npy file ({reason(error)})") from error
        if not array.dtype.itemsize:  # any number of which is in no bytes
            raise DataError(f"{self.name}: values are of type {array.dtype}, expected real numbers")
        if array.ndim == 0:
            raise DataError(f"{self.name}: array has 0 axes, expected rows of embeddings")
        yield from _batches(np.atleast_2d(array), columns, start)


class SafetensorsRows:
    """A safetensors file: each tensor is a column, its first axis the rows."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def names(self) -> list[str]:
        return list(self._opened().keys())

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        file = self._opened()
        parts = {column: file.get_slice(column) for column in columns}
        lengths = {column: (part.get_shape() or [0])[0] for column, part in parts.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{self.name}: tensors of different lengths: {lengths}")
        count = min(lengths.values())
        for first in range(start, count, ROWS):
            last = min(first + ROWS, count)
            try:
                yield Batch(first, {column: part[first:last] for column, part in parts.items()})
            except (TypeError, ValueError) as error:  # bfloat16 and float8, which NumPy does not know
                raise DataError(f"{self.name}: {reason(error)}, expected float32 or float16") from error

    def _opened(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.name}: cannot be read as safetensors ({reason(error)})") from error


class VecsRows:
    """Rows of a four-byte dimension and as many values, float32 or bytes (corpus-texmex.irisa.fr)."""

    def __init__(self, path: Path, name: str, dtype: str) -> None:
        self.path, self.name, self.dtype = path, name, np.dtype(dtype)

    def names(self) -> list[str]:
        return [COLUMN]

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        try:
            raw = np.memmap(self.path, mode="r", dtype="u1")
        except (ValueError, OSError) as error:
            raise DataError(f"{self.name}: cannot be read ({reason(error)})") from error
        dimension = int(np.frombuffer(raw[:4].tobytes().ljust(4, b"\0"), "<i4")[0])
        width = 4 + dimension * self.dtype.itemsize
        if not 0 < dimension <= 1 << 20 or len(raw) % width:
            raise DataError(f"{self.name}: {len(raw):,} bytes are no rows of {dimension} values each")
        rows = raw.reshape(-1, width)
        for first in range(start, len(rows), ROWS):
            part = np.ascontiguousarray(rows[first : first + ROWS])
            if (part[:, :4].view("<i4") != dimension).any():
                raise DataError(f"{self.name}: rows differ in dimension, expected {dimension} everywhere")
            yield Batch(first, dict.fromkeys(columns, part[:, 4:].copy().view(self.dtype)))


def _batches(array: NDArray[Any], columns: Sequence[str], start: int) -> Iterator[Batch]:
    for first in range(start, len(array), ROWS):
        yield Batch(first, dict.fromkeys(columns, array[first : first + ROWS]))
