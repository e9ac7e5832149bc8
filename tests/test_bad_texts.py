"""Rows that are no texts: all counted before anything is embedded, or left out by number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from fakes import FakeEncoder, fake_encoder, tiny_parts, tiny_surrogate, tiny_texts
from unembed.cli.main import main
from unembed.errors import DataError
from unembed.evaluation.evaluate import evaluate
from unembed.inverter import Inverter

GOOD = tiny_texts(4, seed=3)
VALUES: list[Any] = [GOOD[0], None, GOOD[1], " \t", "\u200b", 7, "half \ud83e", GOOD[2], ["a"], GOOD[3]]
WHY = {
    1: "holds no value, expected a string",
    3: "is empty, expected words",
    4: "holds nothing that the encoder reads, expected words",
    5: "holds int, expected a string",
    6: "holds half of a character (U+D83E), expected whole ones",
    8: "holds list, expected a string",
}
LEFT = [row for row in range(len(VALUES)) if row not in WHY]


@pytest.fixture
def encoder() -> FakeEncoder:
    return fake_encoder()


@pytest.fixture
def run(encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    inverter = Inverter(tiny_parts()._replace(surrogate=tiny_surrogate()), encoder)
    monkeypatch.setattr(Inverter, "from_pretrained", lambda *_, **__: inverter)
    monkeypatch.setattr("unembed.encoders.encoder.load_encoder", lambda *_, **__: encoder)
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("\n\n".join(json.dumps({"text": value}) for value in VALUES))

    def call(*arguments: str, code: int = 0, **options: Any) -> Any:
        result = CliRunner().invoke(main, list(arguments), **options)
        assert result.exit_code == code, result.output
        return result

    return call


def test_every_bad_row_is_counted_before_anything_is_embedded(run: Any, encoder: FakeEncoder) -> None:
    calls = encoder.calls
    refused = run("encode", "--texts", "a.jsonl", "-o", "out.npy", code=2).stderr
    named = "; ".join(f"row {row} {why}" for row, why in list(WHY.items())[:5])
    expected = f"a.jsonl: 6 of 10 rows are no texts that the encoder reads: {named}; and 1 more"
    assert refused == f"unembed: {expected}; --skip-bad leaves them out\n"
    Path("late.txt").write_text("a cat\n" * 3000 + "\n")
    refused = run("encode", "--texts", "late.txt", code=2)
    assert (refused.stdout, encoder.calls) == ("", calls)
    assert refused.stderr == "unembed: late.txt: row 3000 is empty, expected words; --skip-bad leaves it out\n"
    assert [path.name for path in sorted(Path().iterdir())] == ["a.jsonl", "late.txt"]


def test_rows_keep_their_numbers(run: Any) -> None:
    expected = fake_encoder().encode(GOOD)
    result = run("encode", "--texts", "a.jsonl", "--skip-bad")
    assert result.stderr == "unembed: note: 6 of 10 texts are left out: rows 1, 3, 4, 5, 6, ...\n"
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["row"] for line in lines] == list(range(10))
    assert [line["text"] for line in lines] == [value if isinstance(value, str) else None for value in VALUES]
    assert {line["row"]: line["skipped"] for line in lines if "skipped" in line} == WHY
    np.testing.assert_allclose([line["embedding"] for line in lines if "embedding" in line], expected, atol=1e-6)

    tree = json.loads(run("encode", "--texts", "a.jsonl", "--skip-bad", "--json").stdout)
    assert [row for row, e in enumerate(tree["embeddings"]) if e is not None] == LEFT
    assert (tree["skipped"], {one["row"]: one["skipped"] for one in tree["skipped_rows"]}) == (6, WHY)

    done = run("encode", "--texts", "a.jsonl", "--skip-bad", "-o", "out.npy")
    assert done.stdout == "4 embeddings of 16 dimensions -> out.npy\n"
    assert done.stderr.endswith("rows 1, 3, 4, 5, 6, ...; NaN in out.npy\n")
    rows = np.load("out.npy")
    assert [*np.flatnonzero(np.isfinite(rows).all(axis=1))] == LEFT
    np.testing.assert_allclose(rows[LEFT], expected, atol=1e-6)
    tree = json.loads(run("encode", "--texts", "a.jsonl", "--skip-bad", "-o", "out.npy", "--json").stdout)
    assert (tree["texts"], tree["skipped"], len(tree["skipped_rows"])) == (10, 6, 6)


def test_what_is_printed_of_bad_rows_is_read_by_invert(run: Any) -> None:
    printed = run("encode", "", *GOOD[:2], "--skip-bad").stdout
    assert "skipped" in printed.splitlines()[0]
    for name, text in (("-", printed), ("out.npy", None)):
        run("encode", "", *GOOD[:2], "--skip-bad", "-o", "out.npy")
        found = json.loads(run("invert", "--embeddings", name, "--skip-bad", "--json", input=text).stdout)["results"]
        assert ["skipped" in row for row in found] == [True, False, False]


def test_bad_rows_of_later_batches_keep_their_numbers(run: Any) -> None:
    Path("long.txt").write_text("\n".join("" if row in (5, 1500) else "a cat" for row in range(2100)))
    rows = [json.loads(line) for line in run("encode", "--texts", "long.txt", "--skip-bad").stdout.splitlines()]
    assert [row["row"] for row in rows if "skipped" in row] == [5, 1500]
    assert len(rows) == 2100


def test_nothing_but_bad_rows_is_refused(run: Any) -> None:
    assert "2 of 2 rows are no texts" in run("encode", "", " ", "--skip-bad", code=2).stderr
    Path("none.txt").touch()
    for option in ([], ["--skip-bad"]):
        refused = run("encode", "--texts", "none.txt", *option, code=2).stderr
        assert refused == "unembed: none.txt: is empty, expected texts\n"


def test_an_evaluation_leaves_out_what_is_no_text(run: Any, encoder: FakeEncoder) -> None:
    calls = encoder.calls
    call = ["evaluate", "--texts", "a.jsonl", "--tokens", "natural", "--steps", "1"]
    refused = run(*call, code=2).stderr
    assert refused.startswith(
        "unembed: a.jsonl: 4 of 10 rows are no texts that the encoder reads: row 1 holds no value"
    )
    assert encoder.calls == calls
    tree = json.loads(run(*call, "--skip-bad", "--json").stdout)
    assert (tree["n"], tree["skipped"], tree["bad"]) == (4, 2, 4)  # empty ones are too short, with or without it
    assert tree["bad_rows"] == {str(row): why for row, why in WHY.items() if row not in (3, 4)}
    assert "2 texts were too short and left out, 4 rows are no texts" in run(
        *call, "--skip-bad", env={"COLUMNS": "120"}
    ).stdout.replace("\n", " ")


def test_an_evaluation_in_python_refuses_and_skips_alike() -> None:
    inverter = Inverter(tiny_parts(), fake_encoder())
    options: Any = {"tokens": "natural", "steps": 1, "random_vectors": 0}
    with pytest.raises(DataError, match=r"^texts: row 1 holds no value, expected a string; --skip-bad leaves it out$"):
        evaluate(inverter, [GOOD[0], None, GOOD[1]], **options)
    with pytest.raises(DataError, match=r"^texts: 2 of 2 rows are no texts that the encoder reads: row 0 holds int"):
        evaluate(inverter, [1, 2], skip_bad=True, **options)
    whole = evaluate(inverter, GOOD, **options)
    skipped = evaluate(inverter, VALUES, skip_bad=True, **options)
    assert (skipped.truths_sha256, skipped.token_f1) == (whole.truths_sha256, whole.token_f1)
    assert evaluate(inverter, GOOD[0], **options).n == 1
    # What stands after the last text that is wanted is not read.
    assert evaluate(inverter, [*GOOD * 100, None], limit=3, **options).bad == 0


def in_csv(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text(
        "id,text,embedding\n" + "".join(f'{row["id"]},{row["text"]},"{row["embedding"]}"\n' for row in rows)
    )


def in_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def in_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize(("name", "write"), [("a.csv", in_csv), ("b.jsonl", in_lines), ("a.parquet", in_parquet)])
def test_columns_that_are_not_needed_may_hold_anything(run: Any, name: str, write: Callable[..., None]) -> None:
    write(Path(name), [{"id": str(i), "text": text, "embedding": "[0.1,0.2]"} for i, text in enumerate(GOOD)])
    lines = [json.loads(line) for line in run("encode", "--texts", name).stdout.splitlines()]
    assert [line["text"] for line in lines] == GOOD
    tree = json.loads(run("evaluate", "--texts", name, "--tokens", "natural", "--steps", "1", "--json").stdout)
    assert tree["n"] == len(GOOD)
