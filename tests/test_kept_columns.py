"""Ids and other columns stand beside the texts that come back, so that results can be joined to the store."""

import base64
import datetime
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from click.testing import CliRunner

from fakes import fake_encoder, tiny_parts, tiny_texts
from unembed.cli.main import main
from unembed.encoders.embedding_files import open_vectors
from unembed.inverter import Inverter
from unembed.tables.values import DEEPEST, LONGEST, plain

N = 9
E = fake_encoder().encode(tiny_texts(N, seed=2))
IDS = [f"row-{i}" for i in range(N)]
ROWS = [e.tolist() for e in E]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Invert with arguments in an empty folder."""
    monkeypatch.setattr(Inverter, "from_pretrained", lambda *_, **__: Inverter(tiny_parts(), fake_encoder()))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any, code: int = 0, **options: Any) -> Any:
        words = ["invert", "--steps", "1", *map(str, arguments)]
        result = CliRunner().invoke(main, words, **options)
        assert result.exit_code == code, result.output
        return result

    return call


def lines(name: str, *trees: Any) -> str:
    Path(name).write_text("".join(json.dumps(tree) + "\n" for tree in trees))
    return name


def parquet(name: str, **columns: Any) -> str:
    pq.write_table(pa.table(columns), name, row_group_size=4)
    return name


def shards(_: str) -> str:
    Path("shards").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(N), 3)):
        parquet(f"shards/{number}.parquet", id=[IDS[i] for i in rows], embedding=[ROWS[i] for i in rows])
    return "shards"


def pairs(**names: Any) -> list[dict[str, Any]]:
    """An object a row; a name leads to the ids (None) or to the vectors (...)."""
    return [{key: i if kind is None else row for key, kind in names.items()} for i, row in zip(IDS, ROWS, strict=True)]


STORES: dict[str, Any] = {
    "Chroma's get": lambda: lines("a.json", {"ids": IDS, "embeddings": ROWS, "documents": None}),
    "Qdrant's points": lambda: lines("a.json", {"result": {"points": pairs(id=None, vector=...)}}),
    "Pinecone's matches": lambda: lines("a.json", {"matches": pairs(id=None, values=...)}),
    "Pinecone's fetch": lambda: lines(
        "a.json", {"vectors": {i: {"values": row} for i, row in zip(IDS, ROWS, strict=True)}}
    ),
    "OpenAI's batch": lambda: lines(
        "a.jsonl",
        *(
            {"custom_id": i, "response": {"body": {"data": [{"index": 0, "embedding": row}]}}}
            for i, row in zip(IDS, ROWS, strict=True)
        ),
    ),
    "Elasticsearch's hits": lambda: lines(
        "a.json", {"hits": {"hits": [{"_id": i, "_source": {"v": row}} for i, row in zip(IDS, ROWS, strict=True)]}}
    ),
    "JSON lines": lambda: lines("a.jsonl", *pairs(id=None, embedding=...)),
    "CSV": lambda: str(
        Path("a.csv").write_text("id,embedding\n" + "".join(f'{i},"{r}"\n' for i, r in zip(IDS, ROWS, strict=True)))
        and "a.csv"
    ),
    "Parquet": lambda: parquet("a.parquet", id=IDS, embedding=ROWS),
    "shards": lambda: shards(""),
}


@pytest.mark.parametrize("kind", STORES)
def test_ids_are_found_in_what_stores_export(run: Any, kind: str) -> None:
    column = ["--column", "_source.v"] if kind.startswith("Elastic") else []
    name = STORES[kind]()
    results = json.loads(run("--embeddings", name, *column, "--json").stdout)["results"]
    assert [(row["row"], row["id"]) for row in results] == list(enumerate(IDS))
    expected = [one.text for one in Inverter(tiny_parts(), fake_encoder()).invert(E, steps=1)]
    assert [row["text"] for row in results] == expected
    run("--embeddings", name, *column, "-o", "out.jsonl", "--batch-size", 4)
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == results


def test_columns_are_kept_beside_the_rows_they_belong_to(run: Any) -> None:
    titles = [{"title": f"T{i}", "tags": [i, None]} for i in range(N)]
    spoiled: list[Any] = [None if i in (2, 6) else row for i, row in enumerate(ROWS)]
    parquet("a.parquet", key=list(range(100, 100 + N)), text=IDS, meta=titles, embedding=spoiled)
    call = ["--embeddings", "a.parquet", "--id-column", "key", "--keep", "meta.title", "--keep", "text", "--skip-bad"]
    run(*call, "-o", "out.jsonl", "--batch-size", 2)
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(100, 100 + N))
    assert [row["keep"] for row in found] == [{"meta.title": f"T{i}", "text": IDS[i]} for i in range(N)]
    assert {row["row"] for row in found if "skipped" in row} == {2, 6}
    assert all(row["text"] != row["keep"]["text"] for row in found)  # a column's name takes no result's place
    assert json.loads(run(*call, "--batch-size", 2, "--json").stdout)["results"] == found  # rounding depends on it
    assert "have the kept columns" in run(*call).stderr


def test_only_the_columns_that_are_asked_for_are_read(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    plain_read = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, *a, **o: seen.append({*o["columns"]}) or plain_read(self, *a, **o)
    )
    parquet("a.parquet", embedding=ROWS, big=["x" * 1000] * N, title=IDS, id=IDS)
    run("--embeddings", "a.parquet", "--keep", "title")
    assert seen == [{"embedding", "title", "id"}] * 2
    assert next(open_vectors("a.parquet").batches(20))[1].shape == (N, 16)
    assert seen[-1] == {"embedding"}


@pytest.mark.parametrize("option", ["--id-column", "--keep"])
def test_a_missing_column_is_named_with_those_there_are(run: Any, option: str) -> None:
    parquet("a.parquet", embedding=ROWS, title=IDS)
    assert run("--embeddings", "a.parquet", option, "titel", code=2).stderr == (
        f"unembed: a.parquet: has columns embedding, title, none called 'titel' for {option}\n"
    )
    np.save("a.npy", E)
    assert "has columns embedding, none called" in run("--embeddings", "a.npy", option, "x", code=2).stderr
    assert "of --embeddings FILE, found TEXT" in run("the cat", option, "title", code=2).stderr
    shards("")
    parquet("shards/2.parquet", embedding=ROWS, title=IDS)
    refused = run("--embeddings", "shards", option, "id", code=2).stderr
    assert refused == "unembed: shards/2.parquet: has columns embedding, title, expected 'id'\n"
    results = json.loads(run("--embeddings", "shards", "--json").stdout)["results"]
    assert "id" not in results[0]  # not every shard has them


def test_keys_that_not_every_row_has_are_none(run: Any) -> None:
    trees = pairs(id=None, embedding=...)
    trees[1]["meta"] = {"lang": "de"}
    del trees[3]["id"]
    results = json.loads(run("--embeddings", lines("a.jsonl", *trees), "--keep", "meta.lang", "--json").stdout)
    assert [row["keep"]["meta.lang"] for row in results["results"]] == [None, "de", *[None] * (N - 2)]
    assert [row["id"] for row in results["results"]] == [*IDS[:3], None, *IDS[4:]]


def test_of_two_columns_of_one_name_the_first_is_read_and_neither_is_found_by_itself(run: Any) -> None:
    columns = [pa.array(values) for values in (IDS, ROWS, IDS[::-1])]
    pq.write_table(pa.Table.from_arrays(columns, names=["id", "embedding", "id"]), "a.parquet")
    found = json.loads(run("--embeddings", "a.parquet", "--id-column", "id", "--json").stdout)["results"]
    assert [row["id"] for row in found] == IDS
    assert "id" not in json.loads(run("--embeddings", "a.parquet", "--json").stdout)["results"][0]


def test_an_answers_own_id_is_not_that_of_its_rows(run: Any) -> None:
    results = json.loads(run("--embeddings", lines("a.json", {"id": "answer", "embeddings": ROWS}), "--json").stdout)
    assert "id" not in results["results"][0]
    (one,) = json.loads(run("--embeddings", lines("b.json", {"id": 7, "embeddings": ROWS[:1]}), "--json").stdout)[
        "results"
    ]
    assert one["id"] == 7


def test_tensors_beside_the_embeddings_are_ids(run: Any) -> None:
    safetensors.numpy.save_file({"embedding": E, "id": np.arange(N) + 5}, "a.safetensors")
    results = json.loads(run("--embeddings", "a.safetensors", "--json").stdout)["results"]
    assert [row["id"] for row in results] == list(range(5, 5 + N))


def test_results_go_on_only_with_the_same_ids_and_columns(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet("a.parquet", id=IDS, other=IDS[::-1], embedding=ROWS)
    call = ["--embeddings", "a.parquet", "-o", "out.jsonl", "--batch-size", "2"]
    run(*call, "--keep", "other")
    whole = Path("out.jsonl").read_bytes()
    os.unlink("out.jsonl")
    with monkeypatch.context() as patch:
        counted, invert = iter(range(2)), Inverter.invert

        def stopped(self: Inverter, *args: Any, **options: Any) -> Any:
            if next(counted, None) is None:
                raise KeyboardInterrupt
            return invert(self, *args, **options)

        patch.setattr(Inverter, "invert", stopped)
        run(*call, "--keep", "other", code=130)
    assert "was made with input keep ['other'], this call has None" in run(*call, code=2).stderr
    more = [*call, "--keep", "other", "--id-column", "other"]
    assert "was made with input id_column 'id', this call has 'other'" in run(*more, code=2).stderr
    parquet("a.parquet", id=IDS, other=IDS, embedding=ROWS)
    assert "was made with input sha256" in run(*call, "--keep", "other", code=2).stderr
    parquet("a.parquet", id=IDS, other=IDS[::-1], embedding=ROWS)
    assert "4 of them from before" in run(*call, "--keep", "other").stdout
    assert Path("out.jsonl").read_bytes() == whole


def test_values_of_any_type_are_json(run: Any) -> None:
    moment = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)
    columns = {
        "bytes": pa.array([b"\x00\xff"] * N),
        "decimal": pa.array([Decimal("1.50")] * N),
        "date": pa.array([moment.date()] * N),
        "time": pa.array([moment] * N),
        "late": pa.array([2**62] * N, pa.timestamp("us")),  # far beyond the year 9999
        "fine": pa.array([1_700_000_000_123_456_789] * N, pa.timestamp("ns")),
        "float": pa.array([float("nan"), float("-inf")] + [0.5] * (N - 2)),
        "struct": pa.array([{"a": [moment.date()], "b": {"c": float("nan")}}] * N),
        "word": pa.array(["a"] * N).dictionary_encode(),
        "long": pa.array(["x" * 10_000] * N),
        "numbers": pa.array([list(range(5_000))] * N),
    }
    parquet("a.parquet", embedding=ROWS, **columns)
    keep = [word for name in columns for word in ("--keep", name)]
    run("--embeddings", "a.parquet", *keep, "-o", "out.jsonl")
    lines = Path("out.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail)["keep"] for line in lines]
    late = rows[0].pop("late")
    assert isinstance(late, str)
    assert rows[0] == {
        "bytes": "00ff",
        "decimal": "1.50",
        "date": "2024-02-29",
        "time": "2024-02-29T12:30:00+00:00",
        "fine": "2023-11-14T22:13:20.123456789",
        "float": None,
        "struct": {"a": ["2024-02-29"], "b": {"c": None}},
        "word": "a",
        "long": "x" * LONGEST + " ... (10,000 characters)",
        "numbers": f"... (list of more than {LONGEST:,} characters, or nested too deep)",
    }
    assert [row["float"] for row in rows] == [None, None, *[0.5] * (N - 2)]


def test_no_value_is_too_large_or_too_deep() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    huge = [deep, {"a": "x" * 10**6}, [10**4000] * 4, {str(i): i for i in range(10**5)}, b"x" * 10**6, "\ud83e" * 10**6]
    for value in [*huge, np.zeros(10**6)]:
        json.dumps(plain(value), allow_nan=False).encode()
        assert len(json.dumps(plain(value))) < 2 * LONGEST
    shallow: Any = 1
    for _ in range(DEEPEST):
        shallow = [shallow]
    assert plain(shallow) == shallow


def test_a_terminal_shows_ids_and_what_is_kept(run: Any) -> None:
    trees = pairs(id=None, embedding=...)
    trees[0] |= {"id": "\x1b]0;owned\x07" + "i" * 50, "note\x1b": "\x1b[2J" + "n" * 500}
    lines("a.jsonl", *trees)
    screen = {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "dumb"}
    shown = run("--embeddings", "a.jsonl", "--keep", "note\x1b", env=screen).stdout
    assert not {"\x07", "\x9b"} & {*shown}
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert all(f"  {i}  " in shown for i in IDS[1:])
    assert max(map(len, shown.splitlines())) < 120
    assert "\x1b" not in run("--embeddings", "a.jsonl", "--keep", "none", code=2).stderr


def test_base64_vectors_have_ids_beside_them_on_standard_input(run: Any) -> None:
    rows = [{"id": i, "embedding": base64.b64encode(e.tobytes()).decode()} for i, e in enumerate(E)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    results = json.loads(run("--embeddings", "-", "--json", input=text).stdout)["results"]
    assert [row["id"] for row in results] == list(range(N))
