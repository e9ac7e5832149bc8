"""Texts to token shards: one pass over the sources, resumable after a kill at any moment.

Rows are read in chunks of fixed size; a chunk is cut into passages, cleared of duplicates, split,
tokenised (and embedded, where the config stores embeddings) and appended to flat files. Every few
seconds the files are synced and their lengths written to `progress.json`, atomically. A resumed run
cuts the files back to those lengths, skips the rows that are in them and goes on with the next
chunk, so the result is, byte for byte, that of a run never stopped.
"""

import heapq
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from unembed.config import Config, config_to_dict
from unembed.corpus.passages import Hashes, Seen, cut_passages, passage_hash, split_of
from unembed.corpus.sources import Pair, Source, find_sources
from unembed.corpus.windows import MANIFEST, SPLITS, Manifest, PartManifest, read_manifest
from unembed.errors import DataError, EmbeddingError, OutputError, printable

if TYPE_CHECKING:
    from unembed.encoders.encoder import Encoder

PROGRESS, HASHES = "progress.json", "hashes.bin"
CHUNK = 4096  # rows read, tokenised and embedded together
COMMIT_SECONDS = 5.0  # work that a kill can cost
HELD_OUT_LINES = 50_000  # of each of validation.txt and test.txt; the rest stays in the parts' own files


def prepare(
    config: Config,
    sources: Sequence[str],
    out: str | Path,
    encoder: "Encoder",
    seed: int = 0,
    show_progress_bar: bool = False,
    limit: int | None = None,
) -> Manifest:
    """Turn sources into a folder of token shards that `data.Shards.open` reads.

    Call it again with the same arguments to go on after an interruption; a folder that is already
    complete is left as it is, except that other `config.data.weights` reorder the held-out texts.

    Args:
        config: `encoder`, `data` and `model.max_tokens` decide what is written.
        sources: files, folders or dataset ids, see `sources`.
        out: the shard folder, made if missing.
        encoder: gives the tokenizer, and the embeddings where they are stored and not the user's own.
        seed: order of the held-out texts in validation.txt and test.txt.
        limit: read at most this many rows of each source.

    Raises:
        DataError: a source cannot be read as it claims, or `out` holds shards of another config,
            tokenizer or source.
        EmbeddingError: vectors of the user's own do not fit the recipe.
        OutputError: `out` cannot be written.
    """
    out = Path(out)
    found = find_sources(sources)
    paired = {source.part for source in found if source.has_vectors()}
    if paired and config.data.embeddings != "stored":
        raise DataError(
            f"{next(source.name for source in found if source.part in paired)}: has vectors of its own in a column "
            "'embedding', expected data.embeddings 'stored' in the configuration"
        )
    stored = config.data.embeddings == "stored"
    plan = Manifest(
        recipe=config.encoder,
        tokenizer=encoder.tokenizer.fingerprint,
        vocab_size=encoder.tokenizer.vocab_size,
        embeddings=config.data.embeddings,
        max_tokens=config.model.max_tokens if stored else None,
        held_out=config.data.held_out,
        weights=dict(config.data.weights),
        seed=seed,
        limit=limit,
        parts=tuple(PartManifest(name=source.part, source_bytes=source.size) for source in found),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        known = read_manifest(out) if (out / MANIFEST).exists() else None
        if known is not None:
            _check_same(out, known, plan)
            parts = known.parts
        else:
            parts = _write_shards(config, found, paired, out, encoder, plan, show_progress_bar)
        finished = replace(plan, parts=parts)
        if finished != known:
            for split in SPLITS[1:]:
                _write_held_out(out, split, finished)
            encoder.tokenizer.save(out)
            _write_whole(out / MANIFEST, json.dumps(finished.to_dict(), indent=1).encode())
        for name in (PROGRESS, HASHES):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename or out}: cannot be written ({error.strerror or error})") from error
    return finished


def _check_same(out: Path, found: Manifest, wanted: Manifest) -> None:
    """Refuse a folder made from anything else."""
    pairs: dict[str, tuple[Any, Any]] = {
        name: (getattr(found, name), getattr(wanted, name))
        for name in ("recipe", "tokenizer", "embeddings", "max_tokens", "held_out", "seed", "limit")
    }
    pairs["sources"] = (_named_sources(found), _named_sources(wanted))
    for name, (old, new) in pairs.items():
        if old != new:
            if name == "recipe":
                name, old, new = next(
                    (f"recipe.{key}", value, config_to_dict(new)[key])
                    for key, value in config_to_dict(old).items()
                    if value != config_to_dict(new)[key]
                )
            raise DataError(
                f"{out}: holds shards with {name} {old}, expected {new}; choose another folder or delete it"
            )


def _named_sources(manifest: Manifest) -> str:
    return ", ".join(f"{part.name} ({part.source_bytes} bytes)" for part in manifest.parts)


def _write_shards(
    config: Config,
    sources: Sequence[Source],
    paired: set[str],
    out: Path,
    encoder: "Encoder",
    plan: Manifest,
    show_progress_bar: bool,
) -> tuple[PartManifest, ...]:
    from tqdm.auto import tqdm

    journal = _Journal.open(out, plan)
    seen = Seen(out)
    try:
        for hashes in journal.hashes():
            seen.add(hashes)
        for source in sources[len(journal.done) :]:
            rows = journal.rows
            pairs = islice(source.pairs(skip=rows), None if plan.limit is None else plan.limit - rows)
            with (
                _PartWriter(config, out, source, source.part in paired, encoder, journal) as writer,
                tqdm(initial=rows, desc=printable(source.part), unit=" texts", disable=not show_progress_bar) as bar,
            ):
                last = time.monotonic()
                while chunk := list(islice(pairs, CHUNK)):
                    writer.write(chunk, seen)
                    bar.update(len(chunk))
                    if time.monotonic() - last > COMMIT_SECONDS:
                        writer.commit()
                        last = time.monotonic()
                writer.commit()
                journal.finish(writer.manifest())
    finally:
        seen.close()
    return tuple(journal.done)


class _Journal:
    """What is safely on disk: finished parts, and the lengths of the files of the part at hand."""

    def __init__(self, out: Path, plan: Manifest, state: dict[str, Any]) -> None:
        self.out = out
        self.plan = plan
        self.done = [PartManifest(**part) for part in state["done"]]
        self.current: dict[str, Any] = state["current"]
        self.hash_bytes: int = state["hash_bytes"]

    @classmethod
    def open(cls, out: Path, plan: Manifest) -> Self:
        """Go on from `progress.json`, or start afresh in a folder without it."""
        path = out / PROGRESS
        state: dict[str, Any] = {"done": [], "current": {}, "hash_bytes": 0}
        if path.exists():
            try:
                tree = json.loads(path.read_bytes())
                found = Manifest.from_dict(tree["plan"])
                state = {key: tree[key] for key in state}
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}: is damaged; choose another output folder") from error
            _check_same(out, found, plan)
        journal = cls(out, plan, state)
        journal.save()
        return journal

    @property
    def rows(self) -> int:
        """Rows of the current source that are on disk."""
        rows: int = self.current.get("counts", {}).get("rows", 0)
        return rows

    def hashes(self) -> Iterator[Hashes]:
        """The hashes of all passages that are on disk, in blocks."""
        with open(self.out / HASHES, "ab") as file:
            file.truncate(self.hash_bytes)
        with open(self.out / HASHES, "rb") as file:
            while block := file.read(8 << 16):
                yield np.frombuffer(block, dtype="<u8")

    def commit(self, counts: dict[str, Any], lengths: dict[str, int], hash_bytes: int) -> None:
        self.current = {"counts": counts, "lengths": lengths}
        self.hash_bytes = hash_bytes
        self.save()

    def finish(self, part: PartManifest) -> None:
        self.done.append(part)
        self.current = {}
        self.save()

    def save(self) -> None:
        tree = {
            "plan": self.plan.to_dict(),
            "done": [asdict(part) for part in self.done],
            "current": self.current,
            "hash_bytes": self.hash_bytes,
        }
        _write_whole(self.out / PROGRESS, json.dumps(tree).encode())


class _PartWriter:
    """Appends chunks of one source to its files; what is not committed is cut off on resume."""

    def __init__(
        self, config: Config, out: Path, source: Source, paired: bool, encoder: "Encoder", journal: _Journal
    ) -> None:
        self.config = config
        self.source = source
        self.paired = paired
        self.encoder = encoder
        self.journal = journal
        self.counts: dict[str, Any] = journal.current.get("counts") or {
            "rows": 0,
            "duplicates": 0,
            "empty": 0,
            "passages": dict.fromkeys(SPLITS, 0),
            "tokens": dict.fromkeys(SPLITS, 0),
        }
        self.out = out
        self.files: dict[str, BinaryIO] = {}
        self.open_files = ExitStack()

    def __enter__(self) -> Self:
        plan, lengths = self.journal.plan, self.journal.current.get("lengths", {})
        with ExitStack() as stack:
            self.files[HASHES] = stack.enter_context(_open_at(self.out / HASHES, self.journal.hash_bytes))
            for split in SPLITS:
                (self.out / split).mkdir(exist_ok=True)
                endings = [".tokens.bin", ".offsets.bin"]
                endings += [".embeddings.bin"] if plan.embeddings == "stored" else []
                endings += [".txt"] if split != "train" else []
                for ending in endings:
                    key = split + ending
                    file = _open_at(self.out / split / (self.source.part + ending), lengths.get(key, 0))
                    self.files[key] = stack.enter_context(file)
                    if ending == ".offsets.bin" and key not in lengths:
                        file.write(np.zeros(1, dtype="<i8").tobytes())
            self.open_files = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_files.close()

    def manifest(self) -> PartManifest:
        return PartManifest(name=self.source.part, source_bytes=self.source.size, **self.counts)

    def commit(self) -> None:
        """Make everything written so far survive a kill."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        lengths = {key: file.tell() for key, file in self.files.items()}
        self.journal.commit(self.counts, lengths, lengths.pop(HASHES))

    def write(self, chunk: list[Pair], seen: Seen) -> None:
        """Append the passages of one chunk of rows."""
        vectors = self._vectors(chunk, self.counts["rows"])
        self.counts["rows"] += len(chunk)
        texts: list[str] = []
        rows: list[int] = []
        for row, (text, _) in enumerate(chunk):
            passages = [text.strip()] if self.paired else list(cut_passages(text))
            texts += passages
            rows += [row] * len(passages)
        ids = self.encoder.tokenizer.encode_batch(texts)
        hashes = np.array([passage_hash(text) for text in texts], dtype=np.uint64)
        filled = np.array([len(tokens) > 0 for tokens in ids], dtype=bool)
        new = seen.add(hashes, where=filled)
        self.counts["empty"] += int((~filled).sum()) + len(chunk) - len(set(rows))
        self.counts["duplicates"] += int((filled & ~new).sum())
        self.files[HASHES].write(hashes[new].astype("<u8").tobytes())
        sides = split_of(hashes, self.config.data.held_out)
        for side, split in enumerate(SPLITS):
            kept = np.flatnonzero(new & (sides == side))
            if len(kept):
                self._append(split, [texts[i] for i in kept], [ids[i] for i in kept])
                if vectors is not None:
                    self.files[split + ".embeddings.bin"].write(vectors[[rows[i] for i in kept]].tobytes())

    def _append(self, split: str, texts: list[str], ids: list[list[int]]) -> None:
        plan = self.journal.plan
        if plan.max_tokens is not None:
            ids = [tokens[: plan.max_tokens] for tokens in ids]
        flat = np.fromiter(chain.from_iterable(ids), dtype=plan.token_dtype)
        ends = np.cumsum([len(tokens) for tokens in ids]) + self.counts["tokens"][split]
        self.files[split + ".tokens.bin"].write(flat.tobytes())
        self.files[split + ".offsets.bin"].write(ends.astype("<i8").tobytes())
        if plan.embeddings == "stored" and not self.paired:
            windows = [self.encoder.tokenizer.decode(tokens) for tokens in ids]
            self.files[split + ".embeddings.bin"].write(self.encoder.encode(windows).astype("<f2").tobytes())
        if split != "train":
            self.files[split + ".txt"].write(b"".join(_one_line(text) for text in texts))
        self.counts["passages"][split] += len(ids)
        self.counts["tokens"][split] += len(flat)

    def _vectors(self, chunk: list[Pair], first_row: int) -> NDArray[np.float16] | None:
        """The user's own vectors (n, d), checked against the recipe; None where the source has none."""
        odd = next((row for row, (_, vector) in enumerate(chunk) if (vector is not None) != self.paired), None)
        if odd is not None:
            expected = "has no embedding, expected one" if self.paired else "has an embedding, expected none"
            raise DataError(f"{self.source.name}: row {first_row + odd} {expected} as in the first row")
        if not self.paired:
            return None
        from unembed.encoders.checks import check_embeddings

        recipe, name = self.journal.plan.recipe, self.source.name
        vectors = [vector for _, vector in chunk if vector is not None]
        for row, vector in enumerate(vectors):
            if len(vector) != recipe.dimension:
                raise EmbeddingError(
                    f"{name}: row {first_row + row}: embedding has {len(vector)} dimensions, expected "
                    f"{recipe.dimension} ({recipe.encoder})"
                )
        return check_embeddings(np.stack(vectors), recipe, source=name, first_row=first_row).astype("<f2")


def _one_line(text: str) -> bytes:
    return " ".join(text.split()).encode(errors="replace") + b"\n"


def _write_held_out(out: Path, split: str, manifest: Manifest) -> None:
    """Write <split>.txt: at most `HELD_OUT_LINES` held-out texts, of which the first N are a fair sample for any N.

    Each text draws an exponential waiting time at the rate of its part's weight, from its hash and
    the seed; sorted by it, the first N lines are a sample without replacement in proportion to
    weight x size (Efraimidis and Spirakis 2006). Parts of weight 0 are left out.
    """
    salt = int(np.random.default_rng(manifest.seed).integers(1 << 64, dtype=np.uint64))

    def timed() -> Iterator[tuple[float, bytes]]:
        for part in manifest.parts:
            weight = manifest.weights.get(part.name, 1.0)
            if weight > 0:
                with open(out / split / f"{part.name}.txt", "rb") as file:
                    for line in file:
                        draw = np.random.default_rng(passage_hash(line.decode()) ^ salt).random()
                        yield -math.log1p(-draw) / weight, line

    _write_whole(out / f"{split}.txt", b"".join(line for _, line in heapq.nsmallest(HELD_OUT_LINES, timed())))


def _open_at(path: Path, length: int) -> BinaryIO:
    """Open for appending after the first `length` bytes, dropping the rest."""
    path.touch()
    size = path.stat().st_size
    if size < length:
        raise DataError(f"{path}: {size} bytes, expected at least {length}; choose another output folder")
    os.truncate(path, length)
    return open(path, "ab", buffering=1 << 20)


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
