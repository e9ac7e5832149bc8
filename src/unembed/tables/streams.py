"""Bytes of a file, compressed or not, and its lines, in bounded memory."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unembed.errors import DataError, extra

LONGEST_LINE = 1 << 26  # bytes; a longer line is no row, and would not fit into bounded memory
WIDEST = 1 << 20  # numbers of a row: the largest embeddings have some ten thousand
# What a file may hold, once decompressed and decoded: so many bytes, or so many times its own. Texts compress to a
# twentieth, embeddings to half; only what was made to fill memory or time compresses to less than a two-hundredth.
LARGE, TIMES = 1 << 28, 200
ROW = 256  # bytes that a row counts for beside its content, so that a million empty ones are enough
MAGIC = {
    b"\x93NUMPY": "NumPy", b"PAR1": "Parquet", b"ARROW1": "Arrow", b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"SQLite format 3": "SQLite",
}  # fmt: skip
FAILURES = (OSError, EOFError, MemoryError, zlib.error, lzma.LZMAError)  # of reading and of decompressing


def _zstd(path: Path) -> Any:
    with extra("parquet", f"{path}: reading zstd"):
        import pyarrow as pa
    return pa.input_stream(str(path), compression="zstd")  # which tells a truncated frame, as zstandard does not


COMPRESSIONS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    ".gz": ("gzip", gzip.open), ".zst": ("zstd", _zstd), ".bz2": ("bzip2", bz2.open), ".xz": ("xz", lzma.open),
}  # fmt: skip


def reason(error: BaseException) -> str:
    """An exception's own words, as a part of one line."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())[:200]


def kind_of(head: bytes) -> str | None:
    """What a file holds by its first bytes, where they tell."""
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)


def head_of(path: Path) -> bytes:
    """The first bytes of a file. Raises DataError."""
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error


def open_bytes(path: Path) -> io.BufferedReader:
    """The decompressed bytes of a file. Raises DataError where it is compressed otherwise than its ending says."""
    kind, opened = COMPRESSIONS.get(path.suffix.lower(), (None, None))
    held = kind_of(head_of(path))
    if held is not None and held != kind:
        raise DataError(f"{path}: holds {held} data, which its ending does not say")
    return path.open("rb") if opened is None else io.BufferedReader(opened(path), buffer_size=1 << 20)


class Allowance:
    """What is left of what a file may hold."""

    def __init__(self, path: Path, name: str) -> None:
        self.name, self.size = name, path.stat().st_size
        self.left = max(LARGE, TIMES * self.size)

    def take(self, size: int, rows: int = 1) -> None:
        """Count bytes of so many rows. Raises DataError where they are too many."""
        self.left -= size + ROW * rows
        if self.left < 0:
            raise DataError(
                f"{self.name}: holds more than {LARGE >> 20} MiB and {TIMES} times its {self.size:,} bytes, as texts "
                "and embeddings never do"
            )


def read_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line of UTF-8, without its end and a byte order mark.

    Args:
        name: what messages call the file.

    Raises:
        DataError: it cannot be read, is truncated, is not UTF-8, a line is too long, or it is far larger than its file.
    """
    number = 0
    try:
        allowance = Allowance(path, name) if path.suffix.lower() in COMPRESSIONS else None
        with open_bytes(path) as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if allowance is not None:
                    allowance.take(len(line))
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{name}: line {number} is longer than {LONGEST_LINE >> 20} MiB")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: line {number} is not UTF-8 ({error.reason} at byte {error.start})") from error
    except FAILURES as error:
        after = f" after line {number}" if number else ""
        raise DataError(f"{name}: cannot be read{after} ({reason(error)})") from error
