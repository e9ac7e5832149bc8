"""Files of a few kilobytes that would take gigabytes, hours or the whole process: refused in one line, with little."""

import bz2
import collections
import contextlib
import gzip
import io
import lzma
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed.corpus.sources import read_texts
from unembed.encoders.embedding_files import open_vectors
from unembed.errors import InputError
from unembed.tables import arrow_buffers, open_table, parquet_pages, streams
from unembed.tables.arrow_values import parts

LARGE = 1 << 26  # in the place of 256 MiB, so that bombs are made quickly
MEMORY, SECONDS = 512 << 20, 15.0  # beside what the process has; on an idle machine none takes more than two seconds
ZEROS = np.zeros(20_000_000, np.float32)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than `MEMORY` beside what is there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(
        pa.table(columns), file, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30,
        row_group_size=1 << 30,
    )  # fmt: skip
    return file.getvalue()


def arrow(compression: str | None = "zstd", stream: bool = True, **columns: Any) -> bytes:
    file, table = io.BytesIO(), pa.table(columns)
    opened = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opened(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return file.getvalue()


def lists(values: Any, *ends: int) -> Any:
    return pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), values)


def repeated(text: str, times: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), pa.array([text]))


def views(text: bytes, times: int) -> Any:
    buffers = [None, pa.py_buffer(struct.pack("<i4sii", len(text), text[:4], 0, 0) * times), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string_view(), times, buffers)


def patched(content: bytes, old: list[int], new: list[int]) -> bytes:
    """An Arrow file whose last such offsets are others."""
    before, after = (np.array(values, np.int32).tobytes() for values in (old, new))
    place = content.rindex(before)
    return content[:place] + after + content[place + len(before) :]


def npy(kind: Any, shape: tuple[int, ...]) -> bytes:
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def zst(chunk: bytes, times: int) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        for _ in range(times):
            stream.write(chunk)
    return out.getvalue().to_pybytes()


MIB = 1 << 20
COMPRESSED_TOO_FAR = "holds more than 64 MiB and 200 times its .* bytes"
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "one row of numbers": (
        "embedding.parquet",
        lambda: parquet(embedding=lists(ZEROS, len(ZEROS))),
        "column 'embedding.list.element', row group 0: would take 152 MiB of memory, expected at most 64",
    ),
    "rows of many numbers": (
        "embedding.parquet",
        lambda: parquet(embedding=lists(ZEROS, *range(70_000, len(ZEROS), 70_000))),
        "row group 0: would take 15. MiB",
    ),
    "a text of many rows": ("text.parquet", lambda: parquet(text=repeated("x" * MIB, 10_000)), COMPRESSED_TOO_FAR),
    "a long text of many rows": (
        "text.parquet",
        lambda: parquet(text=repeated("x" * 50_000_000, 1000)),
        COMPRESSED_TOO_FAR,
    ),
    "rows of little": ("text.parquet", lambda: parquet(text=repeated("a", 3_000_000)), COMPRESSED_TOO_FAR),
    "bytes that are no text": (
        "text.parquet",
        lambda: parquet(text=pa.array([b"\xff"]).view(pa.string())),
        "cannot be read as Parquet .Invalid UTF8",
    ),
    "a compressed buffer": (
        "embedding.feather",
        lambda: arrow(stream=False, embedding=lists(ZEROS, len(ZEROS))),
        "message 1 would take 76 MiB of memory, expected at most 64",
    ),
    "a compressed buffer of a stream": (
        "embedding.arrow",
        lambda: arrow(embedding=lists(ZEROS, len(ZEROS))),
        "message 1 would take 76 MiB",
    ),
    "a longer row": (
        "embedding.arrow",
        lambda: arrow(embedding=lists(ZEROS[:2_000_000], 5, 2_000_000)),
        "row 1 has more than 1,048,576 numbers or 64 MiB of text",
    ),
    "a dictionary": ("text.arrow", lambda: arrow(text=repeated("x" * MIB, 10_000)), COMPRESSED_TOO_FAR),
    "views of one text": ("text.arrow", lambda: arrow(text=views(b"x" * MIB, 10_000)), COMPRESSED_TOO_FAR),
    "a list of nothing": (
        "embedding.arrow",
        lambda: arrow(None, embedding=lists(pa.nulls(2_000_000_000), 2_000_000_000)),
        "column 'embedding' is of type list<item: null>, expected lists of numbers, text or bytes",
    ),
    "a list of empty structs": (
        "embedding.arrow",
        lambda: arrow(
            None, embedding=lists(pa.StructArray.from_arrays([pa.nulls(2_000_000_000)], ["a"]), 2_000_000_000)
        ),
        "is of type list<item: struct<a: null>>",
    ),
    "run ends": (
        "text.arrow",
        lambda: arrow(text=pa.RunEndEncodedArray.from_arrays(pa.array([2_000_000_000], pa.int32()), pa.array(["a"]))),
        "is of type run_end_encoded",
    ),
    "offsets beyond the values": (
        "embedding.arrow",
        lambda: patched(arrow(None, embedding=[[1.0, 2.0, 3.0]]), [0, 3], [0, 500_000_000]),
        "cannot be read as Arrow .*out of bounds",
    ),
    "offsets beyond the text": (
        "text.arrow",
        lambda: patched(arrow(None, text=["abcdefg"]), [0, 7], [0, 2_000_000_000]),
        "cannot be read as Arrow .*out of bounds",
    ),
    "an array that is not there": ("a.npy", lambda: npy("<f4", (10**9, 384)), "is truncated or not a whole .npy file"),
    "an array beyond numbers": ("a.npy", lambda: npy("<f4", (2**62, 2**62)), "is truncated or not a whole .npy file"),
    "an array of nothing": ("a.npy", lambda: npy("|S0", (10**12,)), r"values are of type \|S0, expected real numbers"),
    "a header that nests": (
        "a.npy",
        lambda: b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"{" * 9000,
        "is truncated or not a whole .npy file",
    ),
    "blank lines": ("a.jsonl.zst", lambda: zst(b"\n" * MIB, 2), COMPRESSED_TOO_FAR),
    "blank texts": ("text.txt.bz2", lambda: bz2.compress(b"\n" * (2 * MIB)), COMPRESSED_TOO_FAR),
    "one line": ("text.txt.zst", lambda: zst(b"x" * MIB, 200), COMPRESSED_TOO_FAR),
    "lists in a line": (
        "a.jsonl.gz",
        lambda: gzip.compress(b"[" + b"[1]," * 2_000_000 + b"[1]]\n"),
        "line 1 has 2,000,002 lists and objects, expected at most 1,048,576 in one JSON value",
    ),
    "lists in a document": ("a.json", lambda: b"[\n" + b"[]," * 2_000_000 + b"[]]", "the document has 2,000,002 lists"),
    "what rows have in common": (
        "a.jsonl",
        lambda: b"{%s,\"embeddings\":[%s[1]]}\n"
        % (b",".join(b'"%x":0' % number for number in range(100_000)), b"[1]," * 100_000),
        "line 1 cannot be read as rows .100,001 rows with 100,000 values in common",
    ),
    "long names": (
        "a.jsonl",
        lambda: b'{"%s":{%s}}\n' % (b"k" * 500_000, b",".join(b'"%x":0' % number for number in range(50_000))),
        "line 1, column 'embedding': holds no value",
    ),
    "many names": (
        "a.jsonl",
        lambda: b"{%s}\n" % b",".join(b'"%x.embedding":0' % number for number in range(100_000)),
        "line 1, column '0.embedding': holds int",
    ),
    "a long integer": ("a.jsonl", lambda: b"[%s]\n" % (b"1" * 5_000_000), "line 1 is not JSON .Exceeds the limit"),
    "a record without end": (
        "a.csv",
        lambda: b'"a\n",' * 1_200_000,
        "the record that ends at line 1048578 or later has more than 64 MiB or 1,048,576 values",
    ),
    "a line of commas": ("a.csv.xz", lambda: lzma.compress(b"ab," * 10_000_000), "or 1,048,576 values"),
}  # fmt: skip


def read_all_texts(path: Path) -> None:
    collections.deque(read_texts(path), 0)


def read_all_vectors(path: Path) -> None:
    collections.deque(open_vectors(str(path)).batches(4096), 0)


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_fill_memory_or_time_is_refused(
    bomb: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make, message = BOMBS[bomb]
    path = tmp_path / name
    path.write_bytes(make())
    assert path.stat().st_size < 8 * MIB
    for module in (streams, parquet_pages, arrow_buffers):
        monkeypatch.setattr(module, "LARGE", LARGE)
    request.getfixturevalue("little_memory")
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        (read_all_texts if name.startswith("text") else read_all_vectors)(path)
    assert time.perf_counter() - start < SECONDS
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# --- what is large or repeats itself for a reason is read


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_the_headers_of_pages_say_how_many_values_there_are(tmp_path: Path, version: Any, compression: str) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.parquet"
    table = pa.table({
        "embedding": list(rng.normal(size=(3000, 8))), "text": [f"text {n % 50}" for n in range(3000)],
        "n": pa.array([None if n % 7 else n for n in range(3000)]), "s": [{"a": n, "b": [str(n)]} for n in range(3000)],
    })  # fmt: skip
    pq.write_table(
        table, path, data_page_version=version, compression=compression, data_page_size=1000, row_group_size=1000
    )
    with pq.ParquetFile(path) as file, path.open("rb") as raw:
        content: Any = raw.read()
        for group in range(3):
            for leaf in range(file.metadata.num_columns):
                chunk = file.metadata.row_group(group).column(leaf)
                pages = list(parquet_pages._pages(content, chunk))
                assert sum(count for _, count in pages) == chunk.num_values
                headers = chunk.total_uncompressed_size - sum(size for size, _ in pages)
                assert 0 < headers < 200 * len(pages)


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_a_page_without_a_header_says_so(tmp_path: Path, ending: str) -> None:
    table, path = pa.table({"embedding": list(np.eye(64))}), tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        path.write_bytes(arrow(embedding=table["embedding"]))
    content = path.read_bytes()
    for place in range(4, len(content) - 12, 7):
        path.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
        with contextlib.suppress(InputError):  # nothing else may come of it
            for batch in open_table(str(path)).batches(["embedding"]):
                assert len(batch.columns["embedding"].to_pylist()) == len(batch)


def test_many_equal_rows_are_read(tmp_path: Path) -> None:
    rows = np.tile(np.eye(1, 384, dtype=np.float32), (20_000, 1))
    (tmp_path / "a.parquet").write_bytes(parquet(embedding=list(rows)))
    (tmp_path / "a.feather").write_bytes(arrow(embedding=list(rows), stream=False))
    for name in ("a.parquet", "a.feather"):
        assert sum(len(block) for _, block in open_vectors(str(tmp_path / name)).batches(4096)) == 20_000


def test_texts_of_every_kind_of_column_are_read(tmp_path: Path) -> None:
    texts = ["a", "", "ü" * 3000, "b"] * 700
    plain = pa.array(texts)
    for number, column in enumerate(
        (plain, plain.cast(pa.large_string()), plain.dictionary_encode(), plain.cast(pa.string_view()).slice(0))
    ):
        path = tmp_path / f"{number}.feather"
        path.write_bytes(arrow(text=column, stream=bool(number % 2)))
        assert list(read_texts(path)) == texts
    pq.write_table(pa.table({"text": plain}), tmp_path / "a.parquet")
    assert list(read_texts(tmp_path / "a.parquet")) == texts


def test_parts_are_as_large_as_is_small() -> None:
    columns = {"embedding": lists(ZEROS[: 1 << 22], *(np.arange(1, 9) << 19)), "n": pa.array(range(8))}
    found = list(parts(columns, 0, "a"))
    assert [(first, last) for first, last, _ in found] == [(n, n + 1) for n in range(8)]
    nested = lists(lists(ZEROS[:12], 4, 8, 12), 1, 3)
    assert [size for *_, size in parts({"e": nested}, 0, "a")] == [12 * 4 + 3]
