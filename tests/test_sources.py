"""Reading texts: every format gives the same texts, and what is not what it claims to be says so in one line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from unembed.corpus.sources import find_sources, read_texts
from unembed.errors import DataError

TEXTS = ["The first text.", "", 'A "second", with ünïcode, 中文 and 🙂.', "  spaces kept  ", "The last one"]
LINES = "\n".join(TEXTS).encode()
ROWS = "\n\n".join(json.dumps({"text": text, "other": 1}) for text in TEXTS).encode()


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda d: write(d / "part.txt", LINES + b"\n"),
    "no last line end": lambda d: write(d / "part.txt", LINES),
    "windows": lambda d: write(d / "part.txt", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n")),
    "zst": lambda d: write(d / "part.txt.zst", zstandard.compress(LINES)),
    "zst frames": lambda d: write(d / "part.txt.zst", zstandard.compress(LINES[:9]) + zstandard.compress(LINES[9:])),
    "gz": lambda d: write(d / "part.gz", gzip.compress(LINES)),
    "gz members": lambda d: write(d / "part.txt.gz", gzip.compress(LINES[:9]) + gzip.compress(LINES[9:])),
    "jsonl": lambda d: write(d / "part.jsonl", ROWS),
    "c4": lambda d: write(d / "part.json.gz", gzip.compress(ROWS + b"\n")),
    "parquet": lambda d: write_parquet(d / "part.parquet", text=TEXTS, other=[1] * len(TEXTS)),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_format_gives_the_same_texts(kind: str, tmp_path: Path) -> None:
    path = MAKERS[kind](tmp_path)
    assert list(read_texts(path)) == TEXTS
    (source,) = find_sources([str(path)])
    assert source.part == "part"
    assert source.size == path.stat().st_size
    assert not source.has_vectors()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("skip", range(len(TEXTS) + 2))
def test_skip_leaves_the_rest(kind: str, skip: int, tmp_path: Path) -> None:
    (source,) = find_sources([str(MAKERS[kind](tmp_path))])
    assert [text for text, _ in source.pairs(skip)] == TEXTS[skip:]


def test_a_folder_is_its_readable_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.txt", "a.v2.jsonl.zst", "deeper/c.parquet", "README.md"):
        (tmp_path / name).touch()
    assert [source.part for source in find_sources([str(tmp_path)])] == ["a.v2", "b", "c"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_pairs_keep_the_users_vectors(kind: str, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    if kind == "jsonl":
        rows = [json.dumps({"text": t, "embedding": v.tolist()}) for t, v in zip(TEXTS, vectors, strict=True)]
        path = write(tmp_path / "p.jsonl", "\n".join(rows).encode())
    else:
        path = write_parquet(tmp_path / "p.parquet", text=TEXTS, embedding=list(vectors))
    (source,) = find_sources([str(path)])
    assert source.has_vectors()
    for skip in (0, 3):
        texts, found = zip(*source.pairs(skip), strict=True)
        assert list(texts) == TEXTS[skip:]
        np.testing.assert_array_equal(np.stack([v for v in found if v is not None]), vectors[skip:])


def test_a_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*args: object, **options: object) -> object:
        asked.append((args, options))
        return datasets.IterableDataset.from_generator(lambda: ({"text": t, "url": "u"} for t in TEXTS))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (source,) = find_sources(["allenai/c4:en:validation"])
    assert source.part == "allenai-c4-en-validation"
    assert source.size is None
    assert [text for text, _ in source.pairs(2)] == TEXTS[2:]
    assert list(read_texts("allenai/c4")) == TEXTS
    assert asked == [
        (("allenai/c4", "en"), {"split": "validation", "streaming": True}),
        (("allenai/c4", None), {"split": "train", "streaming": True}),
    ]


def test_a_dataset_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*args: object, **options: object) -> object:
        raise ConnectionError("no route\nto the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"^owner/name: .*no route to the Hub"):
        list(read_texts("owner/name"))


def test_a_dataset_without_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.IterableDataset.from_generator(lambda: iter([{"body": "x", "url": "u"}]))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    with pytest.raises(DataError, match="row 0 has columns body, url, expected a column 'text'"):
        list(read_texts("owner/name"))


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-5])
    return path


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "none.txt", "no such file or folder"),
    "missing folder": (lambda d: d / "none", "no such file or folder"),
    "unknown ending": (lambda d: write(d / "a.pdf", b"x"), r"unknown ending '\.pdf', expected one of \.txt"),
    "folder of nothing": (lambda d: d, r"no file ending in \.txt"),
    "not UTF-8": (lambda d: write(d / "a.txt", b"fine\nna\xefve"), "line 2 is not UTF-8 .* at byte 2"),
    "truncated zst": (lambda d: cut(MAKERS["zst"](d)), r"cannot be read.*\(.*[Tt]runcated"),
    "truncated gz": (lambda d: cut(MAKERS["gz"](d)), r"cannot be read.*\(.*ended before"),
    "no zst": (lambda d: write(d / "a.txt.zst", LINES), "cannot be read"),
    "no gz": (lambda d: write(d / "a.txt.gz", LINES), "cannot be read"),
    "zst called txt": (lambda d: write(d / "a.txt", zstandard.compress(LINES)), "holds zstd data"),
    "Parquet called txt": (lambda d: MAKERS["parquet"](d).rename(d / "a.txt"), "holds Parquet data"),
    "Parquet called jsonl": (lambda d: MAKERS["parquet"](d).rename(d / "a.jsonl"), "holds Parquet data"),
    "txt called Parquet": (lambda d: write(d / "a.parquet", LINES), "cannot be read as Parquet"),
    "truncated Parquet": (lambda d: cut(MAKERS["parquet"](d)), "cannot be read as Parquet"),
    "Parquet column": (
        lambda d: write_parquet(d / "a.parquet", body=["x"], n=[1]),
        "has columns body, n, expected a column 'text'",
    ),
    "Parquet null": (lambda d: write_parquet(d / "a.parquet", text=["x", None]), "row 1 has NoneType in 'text'"),
    "JSONL column": (
        lambda d: write(d / "a.jsonl", b'{"text": "x"}\n\n{"body": "x", "n": 1}'),
        "line 3 has columns body, n, expected a column 'text'",
    ),
    "JSONL empty object": (lambda d: write(d / "a.jsonl", b"{}"), "line 1 has no columns"),
    "no JSON": (lambda d: write(d / "a.jsonl", b'{"text": "x"}\n{"text": '), "line 2 is not JSON"),
    "JSON list": (lambda d: write(d / "a.jsonl", b'["x"]'), "line 1 is list, expected an object"),
    "text is a number": (lambda d: write(d / "a.jsonl", b'{"text": 5}'), "line 1 has int in 'text'"),
    "vector of words": (
        lambda d: write(d / "a.jsonl", b'{"text": "x", "embedding": ["a"]}'),
        "line 1 has no list of numbers in 'embedding'",
    ),
    "ragged vector": (
        lambda d: write(d / "a.jsonl", b'{"text": "x", "embedding": [[1], [1, 2]]}'),
        "line 1 has no list of numbers in 'embedding'",
    ),
    "matrix for a vector": (
        lambda d: write(d / "a.jsonl", b'{"text": "x", "embedding": [[1]]}'),
        "line 1 has 2 dimensions in 'embedding', expected 1",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_says_so_in_one_line(kind: str, tmp_path: Path) -> None:
    make, message = BROKEN[kind]
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        list(read_texts(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.corpus.sources.LONGEST_LINE", 1 << 20)
    path = write(tmp_path / "a.txt.zst", zstandard.compress(b"x" * (8 << 20)))
    with pytest.raises(DataError, match="line 1 is longer than 1 MiB"):
        list(read_texts(path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_source(name: str, content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    (source,) = find_sources([str(path)])
    with pytest.raises(DataError, match="is empty"):
        source.has_vectors()


def test_two_files_of_one_part(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", LINES)
    write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(DataError, match=r"a\.txt: makes the same part 'a' as .*a\.jsonl"):
        find_sources([str(tmp_path)])
