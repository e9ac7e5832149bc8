"""`unembed audit`, `stores` and `recover` as a user meets them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fakes import fake_encoder, save_tiny_inverter
from memory_store import KnowingInverter, MemoryStore, opening, rows, texts
from unembed.cli import bulk
from unembed.cli.main import main
from unembed.errors import DataError
from unembed.stores.store import Trace

STORED = texts(240)
VECTORS = fake_encoder().encode(STORED)
Run = Callable[..., Result]


@pytest.fixture
def store() -> MemoryStore:
    found = MemoryStore("db", docs=rows(VECTORS, STORED), faint=rows(VECTORS[:40]))
    trace = Trace("text", "240 of 240 rows have their text\x1b[2J.", "table docs", 240)
    found.describe("docs", rows=240, dimension=16, metric="cosine", encoder="fake", has_text=True, traces=(trace,))
    return found.describe("faint", rows=None, number="PQ16x8", lossy=True)


@pytest.fixture
def run(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with stores in memory, and an inverter that knows their texts."""
    inverter = KnowingInverter([*STORED, *texts(900, seed=4)[400:]])
    monkeypatch.setattr("unembed.inverter.Inverter.from_pretrained", lambda *_, **__: inverter)
    for module in ("audit.audit", "stores.store"):
        monkeypatch.setattr(f"unembed.{module}.open_store", opening(store))

    def call(*arguments: Any, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(one) for one in arguments], prog_name="unembed")
        assert result.exit_code == code, result.output
        return result

    call.inverter = inverter  # type: ignore[attr-defined]
    return call


def test_an_audit_writes_its_report_and_shows_no_text(run: Run, tmp_path: Path) -> None:
    out = run("audit", "db", "-o", tmp_path / "out", "--sample", 60)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.html", "report.json", "report.sarif"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {one["collection"]: one["attack"] for one in report["collections"]} == {"docs": "blind", "faint": "blind"}
    assert report["about"]["options"]["sample"] == 60
    written = "".join(file.read_text() for file in (tmp_path / "out").iterdir())
    assert not any(text in shown for text in STORED for shown in (written, out.stdout, out.stderr))
    assert "\x1b" not in out.stdout
    assert "docs" in out.stdout
    shown = run("audit", "db#docs", "-o", tmp_path / "shown", "--sample", 40, "--show-text")
    assert any(text in (tmp_path / "shown" / "report.html").read_text() for text in STORED)
    assert (tmp_path / "shown" / "report.html").stat().st_mode & 0o077 == 0
    assert "shown/report.html" in "".join(shown.stdout.split())


def test_json_is_one_object_and_nothing_else(run: Run) -> None:
    report = json.loads(run("audit", "db#docs", "--sample", 40, "--json").stdout)
    assert report["format"] == "unembed-audit"
    assert report["collections"][0]["status_counts"]["near"] > 10


def test_the_gate_has_its_own_exit_code(run: Run, tmp_path: Path) -> None:
    run("audit", "db#docs", "--sample", 40, "--fail-on", "near", code=3)
    run("audit", "db#docs", "--sample", 40, "--seconds", 1, "--fail-on", "proved", code=3)
    run("audit", "db#docs", "--sample", 40, "--fail-on", "any", "-o", tmp_path, code=3)
    known = run("audit", "db#docs", "--sample", 40, "--fail-on", "any", "--baseline", tmp_path / "report.json")
    assert "unchanged since the baseline" in known.stdout
    assert "'everything' is not one of" in run("audit", "db", "--fail-on", "everything", code=2).stderr


def test_what_cannot_be_read_fails_the_command_and_not_the_report(run: Run, store: MemoryStore, tmp_path: Path) -> None:
    store.kept["faint"] = store.kept["faint"][0], DataError("page 7 is damaged")
    out = run("audit", "db", "-o", tmp_path, "--sample", 40, code=1)
    assert "not everything could be audited" in out.stderr
    assert "page 7 is damaged" in json.loads((tmp_path / "report.json").read_text())["unread"][0]


def test_ctrl_c_leaves_a_report_of_what_was_done(run: Run, tmp_path: Path) -> None:
    inverter: Any = run.inverter  # type: ignore[attr-defined]
    inverter.stop = [(20, KeyboardInterrupt())]
    out = run("audit", "db", "-o", tmp_path, "--sample", 100, code=130)
    assert "the same command goes on from there" in out.stderr
    assert json.loads((tmp_path / "report.json").read_text())["about"]["interrupted"] is True
    run("audit", "db", "-o", tmp_path, "--sample", 100)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["about"]["interrupted"] is False
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json", "report.sarif"]


def test_defences_are_priced_and_one_line_recommends(run: Run) -> None:
    out = run("audit", "db#docs", "--sample", 40, "--defences")
    assert "defences" in out.stdout
    report = json.loads(run("audit", "db#docs", "--sample", 40, "--defences", "--json").stdout)
    assert {"none", "int8", "rotation", "binary with rescoring"} <= {row["name"] for row in report["defences"]}
    leaks = [row["leak"]["value"] for row in report["defences"]]
    assert leaks == sorted(leaks, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["db#none"], "has no collection 'none', expected one of docs, faint"),
        (["elsewhere"], "no such store"),
        (["db", "--seconds", "-1"], "seconds is -1"),
        (["db", "--encoder-model", "x"], "encoder_model"),
        (["db", "--baseline", "no.json"], "no.json"),
        (["db", "-o", __file__], "test_audit_commands.py: is a file, expected a folder for the report"),
        (["db", "-o", f"{__file__}/x"], "test_audit_commands.py is a file, expected a folder for the report"),
        (["db", "--device", "tpu"], "device is 'tpu'"),
        ([], "Missing argument"),
    ],
)
def test_wrong_calls_are_one_line(run: Run, arguments: list[str], said: str) -> None:
    error = run("audit", *arguments, code=2).stderr
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_wrong_call_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    code = """
import sys
from unembed.audit.audit import audit
try:
    audit([sys.argv[1]])
except ValueError as error:
    print(error, 'torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "no"], capture_output=True, text=True, check=True)
    assert "no such file or folder" in done.stdout
    assert done.stdout.endswith(" False\n")


def test_vectors_alone_are_audited_without_texts(run: Run) -> None:
    told = json.loads(run("audit", "db#docs", "--sample", 40, "--without-texts", "--json").stdout)
    (one,) = told["collections"]
    assert one["token_f1"] is None
    assert not one["status_counts"]["proved"]
    assert sum(one["status_counts"].values()) == 40
    assert not any(kind["truth"] for kind in one["personal"].values())
    assert any("--without-texts" in line for line in one["not_tried"])
    (both,) = json.loads(run("audit", "db#docs", "--sample", 40, "--json").stdout)["collections"]
    assert both["token_f1"]["value"] > 0.5


def test_stores_lists_collections_and_reads_no_row(run: Run, store: MemoryStore) -> None:
    out = run("stores", "db").stdout
    assert out.splitlines()[0] == "db (memory)"
    assert "docs: 240 rows, 16 dimensions, float32, metric cosine, encoder fake, texts beside the vectors" in out
    assert "text: 240 of 240 rows have their text\ufffd[2J. (240 rows) [table docs]" in out
    assert "faint: rows not counted, dimension not known, PQ16x8, approximate, no encoder named, no texts" in out
    (told,) = json.loads(run("stores", "db#docs", "--json").stdout)["stores"]
    assert (told["kind"], told["location"]) == ("memory", "db")
    assert [one["name"] for one in told["collections"]] == ["docs"]
    assert told["collections"][0]["traces"][0]["kind"] == "text"
    assert store.batches == 0
    assert store.closed
    assert "no such store" in run("stores", "db", "elsewhere", code=2).stderr


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: MemoryStore) -> Run:
    """The command with the untrained inverter of `fakes`."""
    model = save_tiny_inverter(tmp_path / "tiny")
    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", lambda *_, **__: fake_encoder())
    monkeypatch.setattr("unembed.stores.store.open_store", opening(store))

    def call(*arguments: Any, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [*map(str, arguments), "--model", str(model)], prog_name="unembed")
        assert result.exit_code == code, result.output
        return result

    return call


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_recover_gives_what_invert_gives_with_the_stores_ids(tiny: Run, tmp_path: Path, store: MemoryStore) -> None:
    broken = 3 * VECTORS  # a store may keep any length
    broken[5] = np.nan
    store.kept["docs"] = store.kept["docs"][0], rows(broken)
    out = tiny("recover", "db#docs", "-o", tmp_path / "texts.jsonl")
    assert out.stdout == f"240 rows -> {tmp_path / 'texts.jsonl'}\n"
    assert "1 of 240 rows are no embeddings" in out.stderr
    found = lines(tmp_path / "texts.jsonl")
    assert [row["id"] for row in found] == [f"r{i}" for i in range(240)]
    assert "NaN" in found[5]["skipped"]
    np.save(tmp_path / "vectors.npy", VECTORS)
    tiny("invert", "--embeddings", tmp_path / "vectors.npy", "-o", tmp_path / "same.jsonl")
    expected = [row["text"] for row in lines(tmp_path / "same.jsonl")]
    assert [row["text"] for row in found if "skipped" not in row] == expected[:5] + expected[6:]


def test_recover_goes_on_where_it_was_stopped(
    tiny: Run, tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.jsonl"
    tiny("recover", "db#docs", "-o", whole)
    append, count = bulk._append, 0

    def stop(file: Any, written: bytes) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        append(file, written)

    monkeypatch.setattr(bulk, "_append", stop)
    out = tiny("recover", "db#docs", "-o", tmp_path / "texts.jsonl", code=130)
    assert "goes on from the rows in" in out.stderr
    again = tiny("recover", "db#docs", "-o", tmp_path / "texts.jsonl", "--json")
    assert json.loads(again.stdout)["continued_from"] == 128
    assert (tmp_path / "texts.jsonl").read_bytes() == whole.read_bytes()
    # Other rows are not mixed in.
    store.kept["docs"] = store.kept["docs"][0], rows(VECTORS[::-1])
    assert "was made with input" in tiny("recover", "db#docs", "-o", whole, code=2).stderr


def test_recover_wants_one_collection_of_its_dimension(tiny: Run, tmp_path: Path, store: MemoryStore) -> None:
    out = tiny("recover", "db", "-o", tmp_path / "x.jsonl", code=2)
    assert "has 2 collections, choose one with #NAME: docs, faint" in out.stderr
    store.describe("docs", encoder="openai/text-embedding-3-small")
    store.notes.append("data_level0.bin: is cut short\x1b[2J")
    assert (
        "note: data_level0.bin: is cut short\ufffd[2J" in tiny("recover", "db#docs", "-o", tmp_path / "z.jsonl").stderr
    )
    assert "this inverter is for fake" in tiny("recover", "db#docs", "-o", tmp_path / "x.jsonl").stderr
    store.kept["docs"] = store.kept["docs"][0], rows(VECTORS[:, :8])
    assert "takes 16" in tiny("recover", "db#docs", "-o", tmp_path / "y.jsonl", code=2).stderr
    assert "--output" in tiny("recover", "db#docs", "-o", tmp_path / "y.txt", code=2).stderr
