"""Windows: what may be drawn, in what proportion, and that a step's rows depend on nothing but seed and step."""

import dataclasses
import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, Whitespace

from fakes import fake_encoder, tiny_config, tiny_texts, tiny_tokenizer
from unembed.config import DataConfig
from unembed.corpus.prepare import prepare
from unembed.corpus.windows import Batch, Manifest, Shards, Windows, read_manifest
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import ConfigError, DataError

TOKENIZER = tiny_tokenizer()
LENGTH = 16


def write_part(path: Path, texts: list[str]) -> str:
    path.write_text("\n".join(texts), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three parts: single sentences, passages of 3 to 9 sentences, and very short ones."""
    folder = tmp_path_factory.mktemp("data")
    sentences = tiny_texts(600, seed=1)
    long = [" ".join(sentences[i : i + 3 + i % 9]) for i in range(0, 300, 3)]
    short = [f"{a} {b}" for a in ("the", "a", "no") for b in ("cat", "dogs", "x .")] + ["horse"]
    sources = [
        write_part(folder / "single.txt", tiny_texts(300, seed=2)),
        write_part(folder / "long.txt", long),
        write_part(folder / "short.txt", short),
    ]
    prepare(tiny_config(), sources, folder / "shards", fake_encoder())
    return folder / "shards"


@pytest.fixture(scope="module")
def stored_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    sentences = tiny_texts(80, seed=3)
    source = write_part(folder / "part.txt", [*sentences[:40], " ".join(sentences[40:])])
    config = dataclasses.replace(tiny_config(), data=DataConfig(embeddings="stored", held_out=0.1))
    prepare(config, [source], folder / "shards", fake_encoder())
    return folder / "shards"


def windows(folder: Path, length: int = LENGTH, batch_size: int = 64, seed: int = 0, **options: object) -> Windows:
    split = str(options.pop("split", "train"))
    config = DataConfig(held_out=0.1, **options)  # type: ignore[arg-type]
    return Windows(Shards.open(folder), config, TOKENIZER, length, batch_size, seed, split)


def passages(folder: Path, split: str = "train") -> Iterator[tuple[int, ...]]:
    for shard in Shards.open(folder)[split]:
        for index in range(len(shard)):
            yield tuple(shard.passage(index).tolist())


def contents(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(row[:length]) for row, length in zip(batch.canvas.tolist(), batch.lengths.tolist(), strict=True)]


def places(window: tuple[int, ...], passage: tuple[int, ...]) -> list[int]:
    return [i for i in range(len(passage) - len(window) + 1) if passage[i : i + len(window)] == window]


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 40),
    min_tokens=st.integers(1, 40),
    full=st.sampled_from([0.0, 0.5, 1.0]),
    any_word=st.sampled_from([0.0, 0.1, 1.0]),
    split=st.sampled_from(["train", "validation", "test"]),
    seed=st.integers(0, 2**32),
    step=st.integers(0, 2**40),
)
def test_what_a_window_is(
    folder: Path, length: int, min_tokens: int, full: float, any_word: float, split: str, seed: int, step: int
) -> None:
    min_tokens = min(min_tokens, length)
    drawn = windows(
        folder, length, 32, seed, min_tokens=min_tokens, full_windows=full, any_word_start=any_word, split=split
    ).batch(step)
    assert drawn.canvas.dtype == drawn.lengths.dtype == torch.int64
    assert drawn.canvas.shape == (32, length)
    assert drawn.embeddings is None
    known = list(passages(folder, split))
    stops = {TOKENIZER.encode(mark)[0] for mark in ".?"}
    for row, window in zip(drawn.canvas.tolist(), contents(drawn), strict=True):
        assert row == TOKENIZER.canvas(window, length)
        homes = [passage for passage in known if places(window, passage)]
        assert homes, "a window comes from one passage of its split"
        assert not TOKENIZER.token(window[0]).startswith("##")
        shortest = min(min_tokens, *(len(home) for home in homes))
        assert shortest <= len(window) <= length
        if full == 1.0:
            assert any(len(window) == min(length, len(home)) for home in homes)
        if any_word == 0.0:
            starts = [(home, place) for home in homes for place in places(window, home)]
            assert any(place == 0 or home[place - 1] in stops for home, place in starts)


def test_lengths_and_starts_are_spread(folder: Path) -> None:
    draw = windows(folder, LENGTH, 4096, min_tokens=3, full_windows=0.4, weights={"single": 0, "short": 0})
    batch = draw.batch(0)
    lengths = np.bincount(batch.lengths.numpy(), minlength=LENGTH + 1)
    assert lengths[:3].sum() == 0
    assert lengths[3:LENGTH].min() > 0.6 * 0.6 * 4096 / 14
    assert lengths[LENGTH] / 4096 == pytest.approx(0.4 + 0.6 / 14, abs=0.03)
    starts = {passage[:3] for passage in passages(folder)}
    at_start = np.mean([window[:3] in starts for window in contents(batch)])
    assert 0.5 < at_start < 0.9, "a passage's start mostly, not always"


def test_any_word_may_start_a_window(folder: Path) -> None:
    words = {passage[i] for passage in passages(folder) for i in range(len(passage) - 2)}
    words = {word for word in words if TOKENIZER.starts_word[word]}
    batches = [windows(folder, 2, 4096, min_tokens=2, any_word_start=1.0).batch(step) for step in range(3)]
    assert {window[0] for batch in batches for window in contents(batch)} >= words


def test_words_go_on_after_an_apostrophe_and_sentences_behind_a_quote(tmp_path: Path) -> None:
    words = ["it", "s", "5", "cost", "then", "we", "x", ".", "'", '"', ","]
    backend = Backend(WordPiece({word: i for i, word in enumerate([*words, "[UNK]"])}, unk_token="[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()
    encoder = fake_encoder()
    encoder.tokenizer = Tokenizer(backend, eos_id=11)
    source = write_part(tmp_path / "part.txt", ["it's cost 5.5, x.\" then we cost."])
    prepare(dataclasses.replace(tiny_config(), data=DataConfig(held_out=1e-9)), [source], tmp_path / "s", encoder)

    def starts(any_word: float) -> set[str]:
        config = DataConfig(min_tokens=1, full_windows=0.0, any_word_start=any_word)
        drawn = Windows(Shards.open(tmp_path / "s"), config, encoder.tokenizer, 1, 500).batch(0)
        return {words[window[0]] for window in contents(drawn)}

    assert starts(1.0) == {"it", "cost", "5", "x", "then", "we"}
    assert starts(0.0) == {"it", "then"}


def test_a_window_at_either_end_of_the_file(folder: Path, tmp_path: Path) -> None:
    source = write_part(tmp_path / "tiny.txt", ["the old cat visits a house.", "no dog."])
    config = dataclasses.replace(tiny_config(), data=DataConfig(held_out=1e-9))
    prepare(config, [source], tmp_path / "shards", fake_encoder())
    known = list(passages(tmp_path / "shards"))
    assert len(known) == 2
    batch = windows(tmp_path / "shards", 64, 256, any_word_start=0.5, min_tokens=1).batch(0)
    assert set(known) <= set(contents(batch))
    assert all(any(places(window, passage) for passage in known) for window in contents(batch))


def test_parts_are_drawn_by_weight_times_size(folder: Path) -> None:
    owner = {}
    for shard in Shards.open(folder)["train"]:
        owner |= {tuple(shard.passage(i).tolist()): shard.name for i in range(len(shard))}
    sizes = {name: sum(o == name for o in owner.values()) for name in ("single", "long", "short")}
    weights = {"long": 4.0, "short": 0.0, "a part of another corpus": 5.0}
    draw = windows(folder, 200, 8192, full_windows=1.0, any_word_start=0.0, weights=weights)
    whole = [owner[window] for window in contents(draw.batch(0)) if window in owner]
    expected = 4.0 * sizes["long"] / sizes["single"]
    assert "short" not in whole
    # Windows of long passages that start at a later sentence are no whole passages: count those of the single part.
    single = whole.count("single") / 8192
    assert single == pytest.approx(1 / (1 + expected), rel=0.15)


def test_passages_are_drawn_alike(folder: Path) -> None:
    draw = windows(folder, 64, 8192, full_windows=1.0, weights={"long": 0, "short": 0})
    counts = np.unique([hash(window) for window in contents(draw.batch(0))], return_counts=True)[1]
    shard = next(shard for shard in Shards.open(folder)["train"] if shard.name == "single")
    assert len(counts) == len(shard)
    assert counts.min() > 0.3 * 8192 / len(shard)


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.canvas, other.canvas) and torch.equal(one.lengths, other.lengths)


def test_a_batch_is_a_function_of_seed_and_step(folder: Path) -> None:
    one, other = windows(folder), windows(folder)
    later = one.batch(5)
    for step in (9, 0, 7):
        other.batch(step)
    assert equal(later, other.batch(5))
    assert not equal(later, one.batch(6))
    assert not equal(later, windows(folder, seed=1).batch(5))
    assert not equal(later, windows(folder, split="test").batch(5))


def test_a_share_of_the_batches_has_a_short_canvas(folder: Path) -> None:
    draw = windows(folder, min_tokens=2, short_canvas=6, short_share=0.3)
    batches = [draw.batch(step) for step in range(200)]
    short = [batch for batch in batches if batch.canvas.shape[1] == 6]
    assert {batch.canvas.shape[1] for batch in batches} == {6, LENGTH}
    assert 40 < len(short) < 80
    assert {length for batch in short for length in batch.lengths.tolist()} == {1, 2, 3, 4, 5, 6}
    whole = set(passages(folder))
    assert all(any(places(window, passage) for passage in whole) for window in contents(short[0]))
    assert all(
        row[length:] == [TOKENIZER.eos_id, *[TOKENIZER.pad_id] * 5][: 6 - length]
        for batch in short
        for row, length in zip(batch.canvas.tolist(), batch.lengths.tolist(), strict=True)
    )


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_the_global_batch(folder: Path, world_size: int) -> None:
    draw = windows(folder, min_tokens=2, short_canvas=6, short_share=0.5)
    parts = [draw.batch(3, rank, world_size) for rank in range(world_size)]
    whole = draw.batch(3)
    assert torch.equal(torch.cat([part.canvas for part in parts]), whole.canvas)
    assert torch.equal(torch.cat([part.lengths for part in parts]), whole.lengths)


def test_batches_made_ahead_are_those_of_their_steps(folder: Path) -> None:
    draw = windows(folder, min_tokens=2, short_canvas=6, short_share=0.5)
    for count in (0, 1, 3, 20):
        found = list(draw.ahead(range(7, 7 + count), 1, 2))
        assert len(found) == count
        assert all(equal(batch, draw.batch(7 + i, 1, 2)) for i, batch in enumerate(found))
    endless = draw.ahead(itertools.count(5))
    assert equal(next(endless), draw.batch(5))
    endless.close()
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())
    with pytest.raises(ConfigError, match="batch_size is 64, expected a multiple of the 3 processes"):
        next(draw.ahead(range(9), 0, 3))


def test_processes_that_do_not_divide_the_batch(folder: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size is 64, expected a multiple of the 3 processes"):
        windows(folder).batch(0, 0, 3)


def test_stored_embeddings_are_those_of_the_canvas(stored_folder: Path) -> None:
    batch = windows(stored_folder, embeddings="stored").batch(0)
    assert batch.embeddings is not None
    assert batch.embeddings.dtype == torch.float32
    expected = fake_encoder().encode([TOKENIZER.decode(row) for row in batch.canvas.tolist()])
    np.testing.assert_allclose(batch.embeddings, expected, atol=1e-3)
    np.testing.assert_allclose(batch.embeddings.norm(dim=1), 1.0, atol=1e-6)
    starts = {passage[:LENGTH] for passage in passages(stored_folder)}
    assert set(contents(batch)) <= starts


def test_a_batch_moves_to_a_device(stored_folder: Path) -> None:
    moved = windows(stored_folder, embeddings="stored").batch(0).to("meta")
    assert moved.embeddings is not None
    assert moved.canvas.device.type == moved.lengths.device.type == moved.embeddings.device.type == "meta"


def test_a_vocabulary_beyond_uint16(tmp_path: Path) -> None:
    backend = Backend(WordLevel({f"w{i}": i for i in range(70_000)} | {"[UNK]": 70_000}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    encoder = fake_encoder()
    encoder.tokenizer = Tokenizer(backend, eos_id=70_000)
    source = write_part(tmp_path / "part.txt", ["w69999 w65536 w1", "w65535 w69998 w7 w8 w9"])
    config = dataclasses.replace(tiny_config(), data=DataConfig(held_out=1e-9))
    manifest = prepare(config, [source], tmp_path / "shards", encoder)
    assert manifest.token_dtype == np.uint32
    shards = Shards.open(tmp_path / "shards")
    assert [list(p) for p in passages(tmp_path / "shards")] == [[69999, 65536, 1], [65535, 69998, 7, 8, 9]]
    batch = Windows(shards, DataConfig(full_windows=1.0), encoder.tokenizer, 4, 16).batch(0)
    assert {window[0] for window in contents(batch)} <= {69999, 65535, 65536, 69998}


def test_what_does_not_fit_together(folder: Path, stored_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"embeddings is 'stored', but .* was prepared with 'fly'"):
        windows(folder, embeddings="stored")
    with pytest.raises(ConfigError, match=r"short_share needs data.embeddings: fly"):
        windows(stored_folder, embeddings="stored", short_share=0.5)
    with pytest.raises(ConfigError, match=r"short_canvas is 40, expected data.min_tokens \(2\) to .* \(16\)"):
        dataclasses.replace(tiny_config(), data=DataConfig(min_tokens=2, short_canvas=40, short_share=0.5))
    with pytest.raises(ConfigError, match=r"max_tokens is 8, but the embeddings stored in .* cover 16 tokens"):
        windows(stored_folder, 8, embeddings="stored")
    other = TOKENIZER.from_json(TOKENIZER.backend_json().replace('"horse"', '"mule"'), eos_id=3, mask_id=4, pad_id=0)
    with pytest.raises(DataError, match="another tokenizer"):
        Windows(Shards.open(folder), DataConfig(), other, LENGTH, 4)
    nothing = dict.fromkeys(["single", "long", "short"], 0.0)
    with pytest.raises(DataError, match="no passages to draw from in the split 'train'"):
        windows(folder, weights=nothing)


def test_a_manifest_says_what_the_folder_holds(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    assert sum(part.passages["train"] for part in manifest.parts) == len(list(passages(folder)))
    assert Tokenizer.load(folder).fingerprint == manifest.tokenizer == TOKENIZER.fingerprint


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def swap_offsets(path: Path) -> None:
    offsets = np.fromfile(path, dtype=np.int64)
    offsets[1], offsets[2] = offsets[2], offsets[1]
    offsets.tofile(path)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES = {
    "tokens": ("train/part.tokens.bin", truncate, r"part\.tokens\.bin: \d+ bytes, expected \d+"),
    "offsets": ("train/part.offsets.bin", truncate, r"part\.offsets\.bin: \d+ bytes, expected \d+"),
    "embeddings": ("train/part.embeddings.bin", truncate, r"part\.embeddings\.bin: \d+ bytes, expected \d+"),
    "order": ("train/part.offsets.bin", swap_offsets, r"part\.offsets\.bin: offsets do not rise"),
    "missing": ("train/part.tokens.bin", Path.unlink, r"part\.tokens\.bin: cannot be read \(No such file"),
    "no manifest": ("manifest.json", Path.unlink, "no manifest.json, expected a folder that `unembed prepare`"),
    "half a manifest": ("manifest.json", truncate, r"manifest\.json: is not a shard manifest"),
    "other version": ("manifest.json", lambda path: change(path, version=0), "shard format 0, expected 1"),
    "other recipe": ("manifest.json", lambda path: change(path, recipe={}), "is not a shard manifest"),
    "no object": ("manifest.json", lambda path: path.write_text("[]"), "is not a shard manifest"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_shards_say_so_in_one_line(kind: str, stored_folder: Path, tmp_path: Path) -> None:
    name, damage, message = DAMAGES[kind]
    shutil.copytree(stored_folder, tmp_path / "shards")
    damage(tmp_path / "shards" / name)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        Shards.open(tmp_path / "shards")
    assert "\n" not in str(caught.value)


def test_many_shards_need_no_open_files(folder: Path) -> None:
    files = Path("/proc/self/fd")
    if not files.exists():
        pytest.skip("this system does not list open files")
    before = len(list(files.iterdir()))
    held = [Shards.open(folder) for _ in range(20)]
    assert len(list(files.iterdir())) == before
    assert len(held) == 20
