"""Rows that are no embeddings, and embeddings of another encoder: refused, left out or doubted, and always named."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub.errors import LocalEntryNotFoundError

from fakes import fake_encoder, tiny_parts, tiny_surrogate, tiny_texts
from unembed.cli.main import main
from unembed.decoding.other_encoders import SAMPLE
from unembed.encoders.encoder import Encoder
from unembed.errors import EmbeddingError, InputError
from unembed.evaluation.evaluate import evaluate
from unembed.inverter import Inverter

TEXTS = tiny_texts(6, seed=5)
E = fake_encoder().encode(TEXTS)
BAD = {1: "is all zeros, expected an embedding", 4: "has NaN or infinite values, expected finite ones"}


def spoiled() -> np.ndarray:
    rows = E.copy()
    rows[1], rows[4, 3] = 0.0, np.nan
    return rows


@pytest.fixture
def inverter() -> Inverter:
    return Inverter(tiny_parts()._replace(surrogate=tiny_surrogate()), fake_encoder())


@pytest.fixture
def run(inverter: Inverter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(Inverter, "from_pretrained", lambda *_, **__: inverter)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(main, ["invert", *arguments])
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.mark.parametrize("options", [{"candidates": 2, "temperature": 0.8}, {"max_calls": 15}])
def test_bad_rows_are_left_out_and_the_others_stay_what_they_are(inverter: Inverter, options: dict[str, Any]) -> None:
    whole = inverter.invert(E, **options)
    with pytest.raises(EmbeddingError, match=r"2 of 6 rows are no embeddings: row 1 is all zeros.*; row 4 has NaN"):
        inverter.invert(spoiled(), **options)
    found = inverter.invert(spoiled(), skip_bad=True, **options)
    assert {row: one.skipped for row, one in enumerate(found) if one.skipped} == BAD
    for row, (one, expected) in enumerate(zip(found, whole, strict=True)):
        assert one.text == ("" if row in BAD else expected.text)


@pytest.mark.parametrize("name", ["in.npy", "in.jsonl", "in.parquet"])
def test_the_outputs_say_which_rows_are_left_out(inverter: Inverter, run: Any, name: str) -> None:
    rows: list[Any] = [None if row == 1 and name != "in.npy" else e.tolist() for row, e in enumerate(spoiled())]
    if name == "in.npy":
        np.save(name, spoiled())
    elif name == "in.jsonl":
        Path(name).write_text("".join(json.dumps({"embedding": row}) + "\n" for row in rows))
    else:
        pq.write_table(pa.table({"embedding": rows}), name)
    refused = run("--embeddings", name, code=2).stderr
    assert refused.startswith(f"unembed: {name}: 2 of 6 rows are no embeddings: row 1 ")
    assert refused.endswith("--skip-bad leaves them out\n")
    assert refused.count("\n") == 1

    expected = {row: one.text for row, one in enumerate(inverter.invert(E)) if row not in BAD}
    result = run("--embeddings", name, "--skip-bad", "-o", "out.jsonl")
    assert result.stderr == "unembed: note: 2 of 6 rows are no embeddings and are left out\n"
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(6))
    assert {line["row"]: line["text"] for line in lines if line["text"] is not None} == expected
    assert {line["row"] for line in lines if "skipped" in line} == set(BAD)
    missing = "holds no value, expected a list of numbers"
    assert lines[1]["skipped"] == (BAD[1] if name == "in.npy" else missing)
    summary = json.loads(run("--embeddings", name, "--skip-bad", "-o", "out.jsonl", "--json").stdout)
    assert (summary["rows"], summary["skipped"], summary["continued_from"]) == (6, 2, 6)
    results = json.loads(run("--embeddings", name, "--skip-bad", "--json").stdout)["results"]
    assert results == lines
    assert run("--embeddings", name, "--skip-bad").stdout.splitlines() == [expected.get(row, "") for row in range(6)]
    refused = run("--embeddings", name, "-o", "out.jsonl", "--skip-bad", "--normalize", code=2).stderr
    assert "was made with normalize None, this call has True" in refused or "input sha256" in refused


def test_where_all_rows_are_bad_nothing_is_left_to_do(run: Any) -> None:
    np.save("in.npy", np.zeros((7, 16)))
    refused = run("--embeddings", "in.npy", "--skip-bad", code=2).stderr
    assert refused.startswith("unembed: in.npy: 7 of 7 rows are no embeddings: row 0 is all zeros")
    assert "row 4 is all zeros, expected an embedding; and 2 more" in refused


def test_lengths_are_scaled_on_request(inverter: Inverter, run: Any) -> None:
    expected = [one.text for one in inverter.invert(E)]
    long = E * np.linspace(0.2, 30, 6)[:, None]
    int8 = np.round(E * 127).astype(np.int8)
    with pytest.raises(EmbeddingError, match=r"6 of 6 rows .* --normalize scales to length 1"):
        inverter.invert(long)
    assert [one.text for one in inverter.invert(long, normalize=True)] == expected
    *_, frame = inverter.stream(long[2], normalize=True)
    assert inverter.inversion(frame).text == expected[2]
    *_, last = inverter.search(long[2], max_calls=15, normalize=True, first_row=2)
    assert last.text == inverter.invert(E[2], max_calls=15, first_row=2)[0].text
    for name, rows in (("long.npy", long), ("int8.npy", int8), ("bits.npy", np.packbits(E > 0, axis=1))):
        np.save(name, rows)
        run("--embeddings", name, code=2)
        texts = run("--embeddings", name, "--normalize").stdout.splitlines()
        assert len(texts) == 6
        if name == "long.npy":
            assert texts == expected


def test_one_string_is_one_text(inverter: Inverter) -> None:
    np.testing.assert_allclose(inverter.encode(TEXTS[0]), E[:1], atol=1e-6)
    for odd in (None, 3, b"bytes"):
        with pytest.raises(InputError, match=f"text 1 is {type(odd).__name__}, expected a string"):
            inverter.encode(["a cat", odd])
    for odd in (None, 3, {"text": "a cat"}, pd.DataFrame({"text": ["a cat"]})):
        with pytest.raises(InputError, match=f"texts are {type(odd).__name__}, expected a string or a list"):
            inverter.encode(odd)
    for one in (pd.Series(TEXTS, index=range(5, 11)), np.array(TEXTS), (text for text in TEXTS)):
        np.testing.assert_allclose(inverter.encode(one), E, atol=1e-6)
    assert inverter.encode([""]).shape == (1, 16)


def test_columns_of_arrays_are_rows(inverter: Inverter) -> None:
    column = np.empty(len(E), dtype=object)
    column[:] = [*E]
    expected = [one.text for one in inverter.invert(E)]
    learned = [torch.tensor(e, requires_grad=True) for e in E]
    for rows in (column, [*E], pd.Series([*E], index=range(5, 11)), pd.Series(E.tolist()), pd.DataFrame(E), learned):
        assert [one.text for one in inverter.invert(rows)] == expected
    bits = pd.Series([*np.packbits(E > 0, axis=1)])
    assert len(inverter.invert(bits, normalize=True)) == 6


@pytest.mark.parametrize("kind", [list, pd.Series])
def test_rows_of_a_column_that_are_none_are_bad_rows(inverter: Inverter, kind: Any) -> None:
    rows = [E[0], None, E[2].tolist(), float("nan"), E[4][:5], ["a"] * 16]
    with pytest.raises(EmbeddingError, match=r"4 of 6 rows are no embeddings: row 1 holds no value, .* row 3 holds no"):
        inverter.invert(kind(rows))
    found = inverter.invert(kind(rows), skip_bad=True)
    assert [one.skipped for one in found] == [
        None,
        "holds no value, expected a list of numbers",
        None,
        "holds no value, expected a list of numbers",
        "has 5 numbers, expected 16",
        "holds something else, expected a list of numbers",
    ]
    expected = inverter.invert(E)
    assert [found[row].text for row in (0, 2)] == [expected[row].text for row in (0, 2)]
    assert inverter.invert([E[0], E[1], [[1.0], [1.0, 2.0]]], skip_bad=True)[2].skipped is not None
    inner = inverter.invert([E[0].tolist(), [None, *E[1].tolist()[1:]], E[2].tolist()], skip_bad=True)
    assert [one.skipped is None for one in inner] == [True, False, True]


def far_off(inverter: Inverter) -> Inverter:
    """An untrained inverter that is said to have been good."""
    inverter.results["evaluation"] = {"cosine": 5.0}
    return inverter


def inverted_in_parts(inverter: Inverter, at_once: int, **options: Any) -> int:
    """Invert forty rows as parts of a file; returns the encoder calls."""
    rows = fake_encoder().encode(tiny_texts(40))
    before = inverter.encoder.calls
    for first in range(0, 40, at_once):
        part = inverter.invert(rows[first : first + at_once], measure_cosine=False, first_row=first, steps=2, **options)
        assert all(one.cosine is None for one in part)
    return inverter.encoder.calls - before


@pytest.mark.parametrize("at_once", [1, 4, 40])
def test_another_encoder_is_pointed_out_without_cosines(inverter: Inverter, at_once: int) -> None:
    with pytest.warns(UserWarning, match="probably not fake's") as caught:
        calls = inverted_in_parts(far_off(inverter), at_once)
    assert len(caught) == 1
    assert calls <= SAMPLE


def test_good_files_cost_one_sample_without_cosines(inverter: Inverter) -> None:
    inverter.results["evaluation"] = {"cosine": 1e-9}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < inverted_in_parts(inverter, 8, candidates=2) <= SAMPLE


def test_a_sample_asks_no_priced_encoder_and_downloads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = fake_encoder()
    remote.network = None
    far_off(Inverter(tiny_parts(), remote)).invert(E, measure_cosine=False, steps=2)
    assert remote.calls == 0

    asked: list[bool] = []

    def fetch(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    far_off(Inverter(tiny_parts())).invert(E, measure_cosine=False, steps=2)
    assert asked
    assert all(asked)


def test_measuring_chance_is_no_doubt(inverter: Inverter, monkeypatch: pytest.MonkeyPatch) -> None:
    inverter.results["evaluation"] = {"cosine": 1.0}
    seen: list[int] = []

    def doubted(cosines: list[float], *_: Any) -> str | None:
        seen.append(len(cosines))
        return "these vectors are probably not" if len(seen) == 2 else None

    monkeypatch.setattr("unembed.decoding.other_encoders.doubt", doubted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(inverter, TEXTS, tokens="natural", steps=2)
    assert len(seen) == 2
    assert not inverter._doubts.said


def test_vectors_of_another_encoder_are_doubted_and_its_own_are_not(minilm: Encoder) -> None:
    packaged = Inverter.from_pretrained(encoder=minilm)
    noise = np.random.default_rng(0)
    random = noise.standard_normal((6, 384))
    own = packaged.encode(
        ["Das Wetter ist heute schön.", "SELECT name FROM users;", "The cat sat on the mat.", "La bibliothèque ouvre."]
    )
    turned = own @ np.linalg.qr(noise.standard_normal((384, 384)))[0]
    for rows in (random / np.linalg.norm(random, axis=1, keepdims=True), turned):
        with pytest.warns(UserWarning, match=r"probably not all-MiniLM-L6-v2's: .* cosine of 0\.[123]\d, .* 0\.88"):
            Inverter.from_pretrained(encoder=minilm).invert(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packaged.invert(own)
        packaged.invert(own, max_calls=5)
