"""Vectors as PostgreSQL sends them in binary, which is how pgvector's types define it.

    vector      uint16 dimensions, uint16 unused, float32 each
    halfvec     uint16 dimensions, uint16 unused, float16 each
    sparsevec   int32 dimensions, int32 non-zeros, int32 unused, then the int32 indices and the float32 values of these
    bit         int32 bits, then the bits from the highest of the first byte on

All are big-endian. Sources: `vector_send`, `halfvec_send`, `sparsevec_send` of pgvector 0.8, `bit_send` of PostgreSQL.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

NUMBERS = {"vector": "float32", "halfvec": "float16", "sparsevec": "float32", "bit": "bit"}  # by type
HEADER = {"vector": ">HH", "halfvec": ">HH", "sparsevec": ">iii", "bit": ">i"}


def dimension_of(kind: str, blob: bytes) -> int | None:
    """The dimension that a value says it has, None where it is too short to say."""
    size = struct.calcsize(HEADER[kind])
    return int(struct.unpack_from(HEADER[kind], blob)[0]) if len(blob) >= size else None


def common_dimension(kind: str, blobs: Sequence[bytes]) -> int | None:
    """The dimension that most values have, None where there are none."""
    found = Counter(dimension for blob in blobs if (dimension := dimension_of(kind, blob)) is not None)
    return found.most_common(1)[0][0] if found else None


def vectors(kind: str, blobs: Sequence[bytes], dimension: int) -> Floats:
    """Vectors (n, d) float32; NaN where a value has another dimension or is not what its type says.

    Bits are -1 and +1.
    """
    rows = np.full((len(blobs), dimension), np.nan, np.float32)
    if kind == "sparsevec":
        for row, blob in zip(rows, blobs, strict=True):
            _sparse(row, blob)
        return rows
    layout = _layout(kind, dimension)
    head = struct.pack(HEADER[kind], *((dimension,) if kind == "bit" else (dimension, 0)))
    good = [index for index, blob in enumerate(blobs) if len(blob) == layout.itemsize and blob.startswith(head)]
    values = np.frombuffer(b"".join(blobs[index] for index in good), layout)["values"]
    if kind == "bit":
        values = 2.0 * np.unpackbits(values, axis=1)[:, :dimension] - 1.0
    rows[good] = values
    return rows


def _layout(kind: str, dimension: int) -> np.dtype[Any]:
    """One value of a type in which every value of a dimension has the same size."""
    if kind == "bit":
        return np.dtype([("head", ">i4"), ("values", "u1", ((dimension + 7) // 8,))])
    return np.dtype([("head", ">u2", (2,)), ("values", ">f4" if kind == "vector" else ">f2", (dimension,))])


def _sparse(row: Floats, blob: bytes) -> None:
    """Put a sparsevec into a row (d,), where it is one of that dimension."""
    if len(blob) < 12:
        return
    dimension, count, _ = struct.unpack_from(">iii", blob)
    if dimension != len(row) or count < 0 or len(blob) != 12 + 8 * count:
        return
    indices = np.frombuffer(blob, ">i4", count, 12)
    if count and (indices.min() < 0 or indices.max() >= dimension):
        return
    row[:] = 0
    row[indices] = np.frombuffer(blob, ">f4", count, 12 + 4 * count)
