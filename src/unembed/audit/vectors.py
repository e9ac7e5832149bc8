"""What vectors say of themselves: lengths, duplicates, a constant direction, dead dimensions, how numbers are kept.

`Statistics` sees every row of a pass and keeps a few numbers a dimension. Duplicates are counted among rows whose hash
lies in a part of all hashes, which is halved whenever too many are kept; so memory is bounded and the share unbiased.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.stores.store import Rows

HASHES = 1 << 20  # most different rows that are kept in mind
CLOSE = 2048  # rows at whose numbers are looked at one by one
UNIT = 1e-2  # how far from 1 a length may be, as in `encoders.checks`
ROUND = 0.02  # how far from a whole number a value may be that was one, times 127

Floats = NDArray[np.float32]


class Statistics:
    """Figures of vectors that are shown batch by batch, all of one dimension."""

    def __init__(self) -> None:
        self.rows = self.unreadable = self.zero = 0
        self._lengths = np.array([0.0, 0.0, np.inf, -np.inf])  # their sum, of their squares, least, most
        self._unit_D: NDArray[np.float64] | None = None  # sum of unit vectors
        self._least_D = self._most_D = np.empty(0, np.float32)
        self._close: list[Floats] = []
        self._bits = 0  # rows count whose hash ends with so many zeros
        self._hashes: dict[int, int] = {}  # hash -> rows

    def add(self, rows: Rows) -> None:
        """Look at a batch."""
        self.rows += len(rows)
        finite = np.isfinite(rows.vectors).all(1)
        self.unreadable += int((~finite).sum())
        x_BD = rows.vectors[finite & rows.vectors.any(1)]
        self.zero += int(finite.sum()) - len(x_BD)
        if not len(x_BD):
            return
        lengths_B = np.linalg.norm(x_BD.astype(np.float64), axis=1)
        self._lengths[:2] += lengths_B.sum(), (lengths_B**2).sum()
        self._lengths[2:] = min(self._lengths[2], lengths_B.min()), max(self._lengths[3], lengths_B.max())
        unit_D, least_D, most_D = (x_BD / lengths_B[:, None]).sum(0), x_BD.min(0), x_BD.max(0)
        if self._unit_D is None:
            self._unit_D, self._least_D, self._most_D = unit_D, least_D, most_D
        else:
            self._unit_D += unit_D
            self._least_D, self._most_D = np.minimum(self._least_D, least_D), np.maximum(self._most_D, most_D)
        if (room := CLOSE - sum(map(len, self._close))) > 0:
            self._close.append(x_BD[:room].copy())
        self._count(x_BD)

    def _count(self, x_BD: Floats) -> None:
        """Count rows by a multilinear hash of their bits."""
        factors_D = np.random.default_rng(0).integers(1, 2**63, x_BD.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
        with np.errstate(over="ignore"):
            bits_BD = np.ascontiguousarray(x_BD).view(np.uint32).astype(np.uint64)
            found_B = (bits_BD * factors_D).sum(1, dtype=np.uint64) >> np.uint64(20)
        for value in found_B[found_B % np.uint64(1 << self._bits) == 0].tolist():
            self._hashes[value] = self._hashes.get(value, 0) + 1
        while len(self._hashes) > HASHES:
            self._bits += 1
            self._hashes = {value: n for value, n in self._hashes.items() if value % (1 << self._bits) == 0}

    def report(self) -> Mapping[str, Any]:
        """JSON-ready.

        `rows`; `unreadable` (NaN or infinite) and `zero` ones; of the others `dimension`; `length` (mean, standard
        deviation, least, most); `unit`, whether all have length 1; `duplicates`, the share of rows that are copies of
        another; `constant`, the length of the mean of unit vectors, 0 to 1; `dead`, dimensions that are the same in all
        rows; `number`, the coarsest format that holds them; `distinct`, different values of a dimension in the median,
        among the first `of` rows.
        """
        found: dict[str, Any] = {"rows": self.rows, "unreadable": self.unreadable, "zero": self.zero}
        n = self.rows - self.unreadable - self.zero
        if self._unit_D is None:
            return found
        mean, spread = self._lengths[0] / n, max(0.0, self._lengths[1] / n - (self._lengths[0] / n) ** 2) ** 0.5
        least, most = self._lengths[2:].tolist()
        x_ND = np.concatenate(self._close)
        counted = sum(self._hashes.values())
        return found | {
            "dimension": len(self._unit_D),
            "length": {
                name: float(f"{value:.6g}")
                for name, value in (("mean", mean), ("deviation", spread), ("least", least), ("most", most))
            },
            "unit": bool(least > 1 - UNIT and most < 1 + UNIT),
            "duplicates": round(1 - len(self._hashes) / counted, 6) if counted else 0.0,
            "constant": round(float(np.linalg.norm(self._unit_D)) / n, 4),
            "dead": int((self._least_D == self._most_D).sum()) if n > 1 else 0,
            "number": number_of(x_ND),
            "distinct": int(np.median([len(np.unique(column)) for column in x_ND.T])),
            "of": len(x_ND),
        }


def number_of(x_ND: Floats) -> str:
    """The coarsest format that holds these numbers: `bit`, `int8`, `float16`, `bfloat16` or `float32`.

    `int8` are whole numbers up to 127, or numbers that are such after each row, or each dimension, is scaled.
    """
    values = np.unique(x_ND[:64])
    if len(values) <= 2:
        return "bit"
    peaks_N1 = np.abs(x_ND).max(1, keepdims=True)
    whole = (x_ND == np.round(x_ND)).all() and peaks_N1.max() <= 128
    scaled_ND = x_ND / peaks_N1 * 127
    by_row = (np.abs(scaled_ND - np.round(scaled_ND)) < ROUND).all()
    by_dimension = len(x_ND) > 512 and max(len(np.unique(column)) for column in x_ND.T) <= 256
    if whole or by_row or by_dimension:
        return "int8"
    if not (np.ascontiguousarray(x_ND).view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    with np.errstate(over="ignore"):
        return "float16" if (x_ND.astype(np.float16).astype(np.float32) == x_ND).all() else "float32"
