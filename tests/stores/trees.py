"""What tests of local stores share: that nothing of a store was changed, and all of a collection at once."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from unembed.stores.store import Rows

ESCAPES = "\x1b[31m<script>alert(1)</script>\u202e\x00\r\n"  # steers a terminal, a page and the order of letters


def digest(path: Path) -> dict[str, tuple[Any, ...]]:
    """Of every file and folder at and below a path its mode, its time and its content's hash."""
    found = {}
    for one in [path, *sorted(path.rglob("*"))]:
        status = one.stat()
        content = hashlib.sha256(one.read_bytes()).hexdigest() if one.is_file() else ""
        found[str(one)] = status.st_mode, status.st_mtime_ns, status.st_size if content else 0, content
    return found


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """The folder around a store is the same afterwards: nothing written, nothing beside it."""
    before = digest(path)
    yield
    assert digest(path) == before


def read(store: Any, name: str, batch: int = 64) -> Rows:
    """All rows of a collection, read twice: in batches of at most `batch`, and the same each time."""
    parts = [list(store.rows(name, size)) for size in (batch, 1000)]
    assert all(0 < len(part) <= batch for part in parts[0])
    first, second = (_joined(part) for part in parts)
    assert (first.ids, first.texts, first.metadata) == (second.ids, second.texts, second.metadata)
    assert np.array_equal(first.vectors, second.vectors, equal_nan=True)
    return first


def _joined(parts: list[Rows]) -> Rows:
    return Rows(
        [one for part in parts for one in part.ids],
        np.concatenate([part.vectors for part in parts]) if parts else np.empty((0, 1), np.float32),
        [one for part in parts for one in part.texts],
        [one for part in parts for one in part.metadata],
    )


def here(module: str, operation: str, location: str, **words: Any) -> Iterator[Any]:
    """In the place of `child.frames`: the same without a process of its own, which takes a third of a second."""
    yield from getattr(import_module(f"unembed.stores.{module}"), operation)(location, **words)


def unit(rows: int, dimension: int, seed: int = 0) -> Any:
    """Random vectors of length 1, float32."""
    found = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
