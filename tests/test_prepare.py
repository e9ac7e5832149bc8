"""Preparing: what is kept, where it goes, and that a killed run ends as one never killed."""

import dataclasses
import errno
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unembed.corpus.prepare
from fakes import DIMENSION, FakeEncoder, fake_encoder, tiny_config, tiny_texts
from unembed.config import Config, DataConfig, ModelConfig
from unembed.corpus.passages import normalised
from unembed.corpus.prepare import prepare
from unembed.corpus.windows import SPLITS, Manifest, Shards
from unembed.errors import DataError, EmbeddingError, OutputError, UnembedError


def config(**data: object) -> Config:
    return dataclasses.replace(tiny_config(), data=DataConfig(**{"held_out": 0.2, "min_tokens": 2} | data))  # type: ignore[arg-type]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return str(path)


def write_pairs(path: Path, texts: list[str], vectors: list[list[float] | None]) -> str:
    rows = [{"text": t} | ({} if v is None else {"embedding": v}) for t, v in zip(texts, vectors, strict=True)]
    return write(path, [json.dumps(row) for row in rows])


def texts_in(out: Path, split: str) -> list[str]:
    tokenizer = fake_encoder().tokenizer
    return [tokenizer.decode(shard.passage(i).tolist()) for shard in Shards.open(out)[split] for i in range(len(shard))]


def held_out_lines(out: Path, split: str) -> list[str]:
    return (out / f"{split}.txt").read_text(encoding="utf-8").splitlines()


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_every_text_lands_once_in_one_split(tmp_path: Path) -> None:
    texts = list(dict.fromkeys(tiny_texts(500)))
    again = [text.upper() + "!!" for text in texts[:50]]
    sources = [write(tmp_path / "a.txt", texts[:300]), write(tmp_path / "b.txt", [*again, "", "  ", *texts[200:]])]
    manifest = prepare(config(), sources, tmp_path / "out", fake_encoder())
    kept = {split: [normalised(text) for text in texts_in(tmp_path / "out", split)] for split in SPLITS}
    assert Counter(text for texts in kept.values() for text in texts) == Counter(set(map(normalised, texts)))
    assert 0.7 < len(kept["train"]) / len(set(map(normalised, texts))) < 0.9
    for split in SPLITS[1:]:
        assert sorted(map(normalised, held_out_lines(tmp_path / "out", split))) == sorted(kept[split])
        assert set(held_out_lines(tmp_path / "out", split)) <= set(texts), "held-out texts are kept as they were"
    a, b = manifest.parts
    assert (a.rows, b.rows, b.empty) == (300, 352, 2)
    for part in manifest.parts:
        assert sum(part.passages.values()) == part.rows - part.duplicates - part.empty
    assert manifest.complete
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "manifest.json", "tokenizer.json", "tokenizer_ids.json", "validation.txt", "test.txt", *SPLITS
    }  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), held_out=st.floats(0.05, 0.45))
def test_no_text_crosses_over_between_runs(
    seed: int, held_out: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    texts = tiny_texts(120, seed)
    first = write(folder / "a.txt", texts)
    second = write(folder / "b.txt", [text.replace(" ", "  ").title() for text in reversed(texts)] + tiny_texts(9))
    held = config(held_out=held_out)
    prepare(held, [first], folder / "one", fake_encoder(), seed=seed)
    prepare(held, [second], folder / "two", fake_encoder(), seed=seed + 1)
    for split in SPLITS:
        for other in set(SPLITS) - {split}:
            one, two = (set(map(normalised, texts_in(folder / n, s))) for n, s in (("one", split), ("two", other)))
            assert not one & two


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    sources = [write(tmp_path / "a.txt", tiny_texts(300, 1)), write(tmp_path / "b.txt", tiny_texts(300, 2))]
    for name in ("one", "two"):
        prepare(config(), sources, tmp_path / name, fake_encoder(), seed=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    prepare(config(), sources, tmp_path / "other", fake_encoder(), seed=4)
    one, other = (held_out_lines(tmp_path / name, "test") for name in ("one", "other"))
    assert one != other
    assert sorted(one) == sorted(other)


def test_the_first_held_out_lines_are_a_fair_sample(tmp_path: Path) -> None:
    unique = [f"{letter} {a} {b} {n}" for letter in "xyz" for a in "abcdefghijk" for b in "lmnopqrst" for n in range(9)]
    parts = {letter: [text for text in unique if text.startswith(letter)] for letter in "xyz"}
    sources = [write(tmp_path / f"{letter}.txt", texts) for letter, texts in parts.items()]
    weighted = config(held_out=0.49, weights={"y": 3.0, "z": 0.0})
    prepare(weighted, sources, tmp_path / "out", fake_encoder())
    lines = held_out_lines(tmp_path / "out", "validation")
    shares = Counter(line[0] for line in lines[:80])
    assert shares["z"] == 0
    assert 0.62 < shares["y"] / 80 < 0.88
    # Other weights on a finished folder change the order of the held-out texts and nothing else.
    before = contents(tmp_path / "out")
    manifest = prepare(config(held_out=0.49), sources, tmp_path / "out", fake_encoder())
    assert dict(manifest.weights) == {}
    after = contents(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"manifest.json", "validation.txt", "test.txt"}
    shares = Counter(line[0] for line in held_out_lines(tmp_path / "out", "validation")[:90])
    assert min(shares[letter] for letter in "xyz") > 18


def test_long_documents_become_passages(tmp_path: Path) -> None:
    document = " ".join(dict.fromkeys(tiny_texts(300)))
    source = write(tmp_path / "a.jsonl", [json.dumps({"text": document})])
    prepare(config(held_out=1e-9), [source], tmp_path / "out", fake_encoder())
    passages = texts_in(tmp_path / "out", "train")
    assert len(passages) > 5
    assert normalised(" ".join(passages)) == normalised(document)


def test_limit_reads_the_beginning_of_each_source(tmp_path: Path) -> None:
    texts = list(dict.fromkeys(tiny_texts(100)))
    sources = [write(tmp_path / "a.txt", texts[:40]), write(tmp_path / "b.txt", texts[40:])]
    manifest = prepare(config(held_out=1e-9), sources, tmp_path / "out", fake_encoder(), limit=7)
    assert [part.rows for part in manifest.parts] == [7, 7]
    assert texts_in(tmp_path / "out", "train") == texts[:7] + texts[40:47]


def test_stored_embeddings_are_of_the_window(tmp_path: Path) -> None:
    texts = [*tiny_texts(60), " ".join(tiny_texts(6))]
    encoder = fake_encoder()
    stored = config(embeddings="stored")
    prepare(stored, [write(tmp_path / "a.txt", texts)], tmp_path / "out", encoder)
    for split in SPLITS:
        for shard in Shards.open(tmp_path / "out")[split]:
            for i in range(len(shard)):
                ids = shard.passage(i).tolist()
                assert len(ids) <= stored.model.max_tokens
                assert shard.embeddings is not None
                expected = encoder.encode([encoder.tokenizer.decode(ids)])[0]
                np.testing.assert_allclose(shard.embeddings[i], expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_users_own_vectors_are_kept(kind: str, tmp_path: Path) -> None:
    texts = list(dict.fromkeys(tiny_texts(80)))
    vectors = np.random.default_rng(0).normal(size=(len(texts), DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if kind == "jsonl":
        source = write_pairs(tmp_path / "a.jsonl", texts, vectors.tolist())
    else:
        source = str(tmp_path / "a.parquet")
        pq.write_table(pa.table({"embedding": list(vectors), "text": texts}), source)
    encoder = fake_encoder()
    prepare(config(embeddings="stored"), [source], tmp_path / "out", encoder)
    assert encoder.calls == 0
    expected = {normalised(text)[:20]: vector for text, vector in zip(texts, vectors, strict=True)}
    for split in SPLITS:
        for shard in Shards.open(tmp_path / "out")[split]:
            for i in range(len(shard)):
                key = normalised(encoder.tokenizer.decode(shard.passage(i).tolist()))[:20]
                assert shard.embeddings is not None
                np.testing.assert_array_equal(shard.embeddings[i], expected[key].astype(np.float16))


UNIT = [1.0] + [0.0] * (DIMENSION - 1)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        ([UNIT, UNIT[:5]], EmbeddingError, "row 1: embedding has 5 dimensions, expected 16 .fake"),
        ([UNIT, [float("nan"), *UNIT[1:]]], EmbeddingError, "row 1 has NaN or infinite values"),
        ([[0.0] * DIMENSION, UNIT], EmbeddingError, "row 0 is all zeros"),
        ([UNIT, [2.0, *UNIT[1:]]], EmbeddingError, "row 1 has length 2, expected 1"),
        ([UNIT, None], DataError, "row 1 has no embedding, expected one as in the first row"),
    ],
)
def test_vectors_that_do_not_fit(
    vectors: list[list[float] | None], error: type[UnembedError], message: str, tmp_path: Path
) -> None:
    source = write_pairs(tmp_path / "a.jsonl", ["the cat", "a dog"], vectors)
    with pytest.raises(error, match=message) as caught:
        prepare(config(embeddings="stored"), [source], tmp_path / "out", fake_encoder())
    assert source in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_vectors_need_a_config_that_stores_them(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "a.jsonl", ["the cat"], [UNIT])
    with pytest.raises(DataError, match=r"a\.jsonl: has vectors .* expected data\.embeddings 'stored'"):
        prepare(config(), [source], tmp_path / "out", fake_encoder())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_source_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"a\.txt\.gz: is empty"):
        prepare(config(), [str(tmp_path / "a.txt.gz")], tmp_path / "out", fake_encoder())
    assert not (tmp_path / "out").exists()


CHANGES: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "held out": (lambda d: {"config": config(held_out=0.1)}, "held_out 0.2, expected 0.1"),
    "embeddings": (lambda d: {"config": config(embeddings="stored")}, "embeddings fly, expected stored"),
    "recipe": (
        lambda d: {
            "config": dataclasses.replace(config(), encoder=dataclasses.replace(config().encoder, prompt="q: "))
        },
        "recipe.prompt , expected q: ",
    ),
    "seed": (lambda d: {"seed": 1}, "seed 0, expected 1"),
    "limit": (lambda d: {"limit": 5}, "limit None, expected 5"),
    "sources": (lambda d: {"sources": [write(d / "b.txt", ["a cat"])]}, r"sources a \(.*\), expected b \(6 bytes\)"),
    "changed source": (lambda d: {"sources": [write(d / "a.txt", ["a cat"])]}, r"expected a \(6 bytes\)"),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_folder_of_something_else_is_refused(
    kind: str, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"config": config(), "sources": [write(tmp_path / "a.txt", tiny_texts(40))], "seed": 0, "limit": None}
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(unembed.corpus.prepare, "_write_held_out", interrupt)
        try_prepare(known, tmp_path / "out")
    before = contents(tmp_path / "out")
    change, message = CHANGES[kind]
    with pytest.raises(DataError, match=f"out: holds shards with .*{message}; choose another folder or delete it"):
        prepare(**(known | change(tmp_path)), out=tmp_path / "out", encoder=fake_encoder())  # type: ignore[arg-type]
    assert contents(tmp_path / "out") == before


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def try_prepare(arguments: dict[str, object], out: Path) -> Manifest | None:
    try:
        return prepare(**arguments, out=out, encoder=fake_encoder())  # type: ignore[arg-type]
    except KeyboardInterrupt:
        return None


def test_stored_embeddings_of_another_length_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", tiny_texts(20))
    stored = config(embeddings="stored")
    prepare(stored, [source], tmp_path / "out", fake_encoder())
    longer = dataclasses.replace(stored, model=ModelConfig(max_tokens=20))
    with pytest.raises(DataError, match="max_tokens 16, expected 20"):
        prepare(longer, [source], tmp_path / "out", fake_encoder())


def test_a_damaged_journal(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", tiny_texts(20))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "progress.json").write_text("{")
    with pytest.raises(DataError, match=r"progress\.json: is damaged"):
        prepare(config(), [source], tmp_path / "out", fake_encoder())


def many_texts() -> list[list[str]]:
    return [[*tiny_texts(150, 1), " ".join(tiny_texts(200, 9))], tiny_texts(60, 2), tiny_texts(130, 3)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sources, and in `out` what a run that was never stopped makes of them."""
    folder = tmp_path_factory.mktemp("straight")
    sources = [write(folder / f"{i}.txt", texts) for i, texts in enumerate(many_texts())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unembed.corpus.prepare, "CHUNK", 32)
        prepare(config(embeddings="stored"), sources, folder / "out", fake_encoder())
    return folder


@settings(deadline=None, max_examples=15)
@given(
    stops=st.lists(st.integers(0, 100), min_size=1, max_size=3),
    place=st.sampled_from([(os, "fsync"), (os, "replace"), (FakeEncoder, "encode")]),
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    stops: list[int], place: tuple[object, str], straight: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("interrupted") / "out"
    arguments = {"config": config(embeddings="stored"), "sources": sorted(map(str, straight.glob("*.txt")))}
    original = getattr(*place)
    left = 0

    def stopping(*args: object, **options: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unembed.corpus.prepare, "CHUNK", 32)
        patch.setattr(unembed.corpus.prepare, "COMMIT_SECONDS", 0.0)
        for left in stops:  # noqa: B007
            with patch.context() as inner:
                inner.setattr(*place, stopping)
                try_prepare(arguments, out)
        assert try_prepare(arguments, out) is not None
    assert contents(out) == contents(straight / "out")


SLOW_RUN = """
import sys, time
from pathlib import Path
import torch
import unembed.corpus.prepare
from fakes import FakeEncoder
from test_prepare import config

class SlowEncoder(FakeEncoder):
    def encode(self, texts, **options):
        time.sleep(float(sys.argv[2]))
        return super().encode(texts, **options)

torch.set_num_threads(1)
unembed.corpus.prepare.CHUNK, unembed.corpus.prepare.COMMIT_SECONDS = 32, 0.0
sources = sorted(map(str, Path(sys.argv[1]).glob("*.txt")))
unembed.corpus.prepare.prepare(config(embeddings="stored"), sources, sys.argv[3], SlowEncoder())
"""


def test_a_killed_run_ends_as_one_never_killed(straight: Path, tmp_path: Path) -> None:
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(unembed.corpus.prepare.__file__).parents[1])])
    out = tmp_path / "killed"
    journal = out / "progress.json"
    written = 0

    def command(pause: float) -> list[str]:
        return [sys.executable, "-c", SLOW_RUN, str(straight), str(pause), str(out)]

    for _ in range(2):
        with subprocess.Popen(command(pause=0.05), env=os.environ | {"PYTHONPATH": places}) as run:
            wanted, deadline = written + 800, time.monotonic() + 300
            while written < wanted and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
                written = json.loads(journal.read_text())["hash_bytes"] if journal.exists() else 0
            run.send_signal(signal.SIGKILL)
            assert run.wait(60) == -signal.SIGKILL
        assert written >= wanted
        assert not (out / "manifest.json").exists()
    subprocess.run(command(pause=0.0), env=os.environ | {"PYTHONPATH": places}, check=True, timeout=300)
    assert contents(out) == contents(straight / "out")


def test_a_full_disk_costs_nothing_but_the_time(tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{i}.txt", texts) for i, texts in enumerate(many_texts())]
    prepare(config(), sources, tmp_path / "straight", fake_encoder())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # Python ignores the signal: writing fails
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            prepare(config(), sources, tmp_path / "out", fake_encoder())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    prepare(config(), sources, tmp_path / "out", fake_encoder())
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.txt", tiny_texts(20))
    for out in (tmp_path / "a.txt", tmp_path / "a.txt" / "deeper"):
        with pytest.raises(OutputError, match=r"a\.txt.*: cannot be written") as caught:
            prepare(config(), [source], out, fake_encoder())
        assert "\n" not in str(caught.value)

    def read_only(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OutputError, match=r"out: cannot be written \(Read-only file system\)"):
        prepare(config(), [source], tmp_path / "out", fake_encoder())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", tiny_texts(20))
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"out.*: cannot be written \(Permission denied\)"):
        prepare(config(), [source], tmp_path / "out", fake_encoder())


def test_progress_is_shown_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.txt", tiny_texts(20))
    prepare(config(), [source], tmp_path / "quiet", fake_encoder())
    assert capsys.readouterr().err == ""
    prepare(config(), [source], tmp_path / "loud", fake_encoder(), show_progress_bar=True)
    assert "20 texts" in capsys.readouterr().err
