"""Training windows, drawn afresh every step from memory-mapped token shards.

A shard folder (written by `prepare`) holds, per part and split, flat files and nothing else:

    manifest.json                       what the shards are; written last, so its presence means they are whole
    tokenizer.json, tokenizer_ids.json  the tokenizer that made the token ids
    validation.txt, test.txt            the held-out texts, one a line, in random order
    <split>/<part>.tokens.bin           content token ids of all passages, uint16 or uint32
    <split>/<part>.offsets.bin          int64, passages + 1: where each passage starts
    <split>/<part>.embeddings.bin       float16, passages x d; only where embeddings are stored
    <split>/<part>.txt                  the held-out texts of one part (not for train)

`Windows.batch(step)` is a pure function of (seed, step): there is no iterator state to save, so a
resumed run draws exactly what the uninterrupted one would have.
"""

import json
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from unembed.config import DataConfig, Recipe, recipe_from_dict
from unembed.errors import ConfigError, DataError

if TYPE_CHECKING:
    from unembed.encoders.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SENTENCE_START = 0.35  # share of the windows not started at any word that start at a random sentence of the passage
SENTENCE_SEARCH, WORD_SEARCH = 96, 16  # tokens searched backwards from a random position for a start
AHEAD = 4  # batches that are made before they are needed
# What a token can do to the start of a window. After an apostrophe the same word goes on ("don ' t"), and a
# number after a full stop is more often a decimal than a sentence.
STOPS, APOSTROPHES = ".!?\u3002\uff01\uff1f", "'\u2019"
CLOSING = APOSTROPHES + '")]\u201d\u00bb'
STARTS_WORD, ENDS_SENTENCE, CLOSES, STARTS_SENTENCE, APOSTROPHE = 1, 2, 4, 8, 16

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PartManifest:
    """What one part gave: rows read, passages and tokens kept per split, and what was dropped."""

    name: str
    source_bytes: int | None
    rows: int = 0
    duplicates: int = 0
    empty: int = 0
    passages: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    tokens: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


@dataclass(frozen=True)
class Manifest:
    """What a shard folder holds; two folders with equal manifests hold equal shards."""

    recipe: Recipe
    tokenizer: str  # fingerprint
    vocab_size: int
    embeddings: str  # "fly" or "stored"
    max_tokens: int | None  # content tokens that a stored embedding covers; None where embeddings are not stored
    held_out: float
    weights: Mapping[str, float]
    seed: int
    limit: int | None
    parts: tuple[PartManifest, ...]
    version: int = FORMAT_VERSION
    complete: bool = True

    @property
    def token_dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> Self:
        """The inverse of `to_dict`. Raises KeyError or TypeError where `tree` is no manifest."""
        values = dict(tree)
        values["recipe"] = recipe_from_dict(values["recipe"])
        values["parts"] = tuple(PartManifest(**part) for part in values["parts"])
        return cls(**values)


def read_manifest(folder: Path) -> Manifest:
    """Read a shard folder's manifest. Raises DataError where it is missing, damaged or of another version."""
    path = folder / MANIFEST
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        version = tree["version"]
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: shard format {version}, expected {FORMAT_VERSION}; run `unembed prepare` again")
        return Manifest.from_dict(tree)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {MANIFEST}, expected a folder that `unembed prepare` has finished") from error
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is not a shard manifest ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class Shard:
    """One part of one split, memory-mapped."""

    name: str
    tokens: NDArray[Any]  # (tokens,) uint16 or uint32
    offsets: Ints  # (passages + 1,)
    embeddings: NDArray[np.float16] | None  # (passages, d)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def passage(self, index: int) -> Ints:
        """Content token ids of one passage."""
        return np.asarray(self.tokens[self.offsets[index] : self.offsets[index + 1]], dtype=np.int64)


class Shards:
    """A folder of token shards: `manifest`, and per split the shards that hold passages."""

    def __init__(self, folder: Path, manifest: Manifest, splits: Mapping[str, tuple[Shard, ...]]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.splits = splits

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Map a shard folder into memory.

        Raises:
            DataError: a file is missing, or has another length than the manifest says.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        splits = {
            split: tuple(_open_shard(folder, manifest, part, split) for part in manifest.parts if part.passages[split])
            for split in SPLITS
        }
        return cls(folder, manifest, splits)

    def __getitem__(self, split: str) -> tuple[Shard, ...]:
        return self.splits[split]


def _open_shard(folder: Path, manifest: Manifest, part: PartManifest, split: str) -> Shard:
    passages, tokens, dimension = part.passages[split], part.tokens[split], manifest.recipe.dimension
    stem = f"{folder / split / part.name}"
    offsets = _map(Path(f"{stem}.offsets.bin"), torch.int64, passages + 1)
    if offsets[0] != 0 or offsets[-1] != tokens or np.any(offsets[1:] <= offsets[:-1]):
        raise DataError(f"{stem}.offsets.bin: offsets do not rise from 0 to {tokens}")
    token_type = torch.uint16 if manifest.token_dtype.itemsize == 2 else torch.uint32
    embeddings = None
    if manifest.embeddings == "stored":
        flat = _map(Path(f"{stem}.embeddings.bin"), torch.float16, passages * dimension)
        embeddings = flat.reshape(passages, dimension)
    return Shard(
        name=part.name,
        tokens=_map(Path(f"{stem}.tokens.bin"), token_type, tokens),
        offsets=offsets,
        embeddings=embeddings,
    )


def _map(path: Path, dtype: torch.dtype, count: int) -> NDArray[Any]:
    """The file's numbers, mapped. torch maps without keeping the file open, so shards may be many."""
    try:
        found = path.stat().st_size
        if found != count * dtype.itemsize:
            raise DataError(f"{path}: {found} bytes, expected {count * dtype.itemsize} as the manifest says")
        return torch.from_file(str(path), shared=False, size=count, dtype=dtype).numpy()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Batch:
    """Rows of training data; B rows, L positions."""

    canvas: torch.Tensor  # (B, L) int64: content tokens, one EOS if there is room, PAD; L is one of two lengths
    lengths: torch.Tensor  # (B,) int64: content tokens
    embeddings: torch.Tensor | None  # (B, d) float32 where they are stored

    def to(self, device: torch.device | str) -> "Batch":
        """The same rows on a device."""
        embeddings = None if self.embeddings is None else self.embeddings.to(device, non_blocking=True)
        return Batch(self.canvas.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True), embeddings)

    def pinned(self) -> "Batch":
        """The same rows in memory from which a GPU copies without anybody waiting."""
        embeddings = None if self.embeddings is None else self.embeddings.pin_memory()
        return Batch(self.canvas.pin_memory(), self.lengths.pin_memory(), embeddings)


class Windows:
    """Random windows of one split: row -> part (in proportion to weight x passages) -> passage -> window.

    A share `full_windows` of the windows has exactly `length` content tokens, or the whole passage
    where that is shorter; the others have min_tokens..length, uniformly. A window starts at its
    passage's start, at the start of a random sentence, or (share `any_word_start`) at any word, but
    never inside a word. A share `short_share` of the batches has a canvas of `short_canvas` positions
    instead of `length`, and windows that fit it. With stored embeddings a window is the passage's first
    `length` tokens, since that is what was embedded. Weights of parts that the shards lack are ignored, so that one
    configuration serves several corpora.

    Raises ConfigError or DataError where shards, tokenizer, length and weights do not fit together.
    """

    def __init__(
        self,
        shards: Shards,
        config: DataConfig,
        tokenizer: "Tokenizer",
        length: int,
        batch_size: int,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        manifest = shards.manifest
        if tokenizer.fingerprint != manifest.tokenizer:
            raise DataError(f"{shards.folder}: the shards were made with another tokenizer than the encoder's")
        if config.embeddings != manifest.embeddings:
            raise ConfigError(
                f"data.embeddings is {config.embeddings!r}, but {shards.folder} was prepared with "
                f"{manifest.embeddings!r}"
            )
        if manifest.max_tokens is not None and length != manifest.max_tokens:
            raise ConfigError(
                f"model.max_tokens is {length}, but the embeddings stored in {shards.folder} cover "
                f"{manifest.max_tokens} tokens"
            )
        self.shards = shards[split]
        share = np.array([config.weights.get(shard.name, 1.0) * len(shard) for shard in self.shards])
        if share.sum() <= 0:
            raise DataError(f"{shards.folder}: no passages to draw from in the split {split!r}")
        self.cumulative = np.cumsum(share) / share.sum()
        self.config = config
        self.recipe = manifest.recipe
        self.length = length
        self.batch_size = batch_size
        self.seed = [seed, SPLITS.index(split)]
        self.eos_id, self.pad_id = tokenizer.eos_id, tokenizer.pad_id
        self.kinds = _kinds(tokenizer)
        self.token_dtype = manifest.token_dtype

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Rows `rank` of `world_size` of step `step`'s global batch of `batch_size` rows.

        Raises ConfigError where `batch_size` is no multiple of `world_size`.
        """
        if self.batch_size % world_size:
            raise ConfigError(
                f"training.batch_size is {self.batch_size}, expected a multiple of the {world_size} processes"
            )
        rows = self.batch_size // world_size
        generator = np.random.default_rng([*self.seed, step])
        draws = generator.random((self.batch_size, 6))[rank * rows : (rank + 1) * rows]
        width = self.config.short_canvas if generator.random() < self.config.short_share else self.length
        part = np.searchsorted(self.cumulative, draws[:, 0], side="right").clip(max=len(self.shards) - 1)
        first, room = np.empty((2, rows), dtype=np.int64)
        embeddings: NDArray[np.float32] | None = None
        if self.config.embeddings == "stored":
            embeddings = np.empty((rows, self.recipe.dimension), dtype=np.float32)
        for index in np.unique(part):
            shard, chosen = self.shards[index], np.flatnonzero(part == index)
            passage = (draws[chosen, 1] * len(shard)).astype(np.int64)
            first[chosen] = shard.offsets[passage]
            room[chosen] = shard.offsets[passage + 1] - first[chosen]
            if embeddings is not None and shard.embeddings is not None:
                embeddings[chosen] = shard.embeddings[passage]
        start, lengths = self._place(part, first, room, draws[:, 2:], width)
        canvas = self._cut(part, start, lengths, width)
        if embeddings is not None and self.recipe.normalize:  # float16 rounding left the unit sphere
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        return Batch(
            torch.from_numpy(canvas),
            torch.from_numpy(lengths),
            None if embeddings is None else torch.from_numpy(embeddings),
        )

    def ahead(
        self, steps: Iterable[int], rank: int = 0, world_size: int = 1, *, pin: bool = False
    ) -> Generator[Batch, None, None]:
        """`batch` of each of `steps`, the next few made by another thread while one is used.

        Args:
            pin: whether to put them where a GPU copies from.
        """

        def make(step: int) -> Batch:
            batch = self.batch(step, rank, world_size)
            return batch.pinned() if pin else batch

        rest = iter(steps)
        with ThreadPoolExecutor(1) as pool:
            waiting = [pool.submit(make, step) for step in islice(rest, AHEAD)]
            try:
                while waiting:
                    yield waiting.pop(0).result()
                    waiting += [pool.submit(make, step) for step in islice(rest, 1)]
            finally:
                for future in waiting:
                    future.cancel()

    def _place(self, part: Ints, first: Ints, room: Ints, draws: NDArray[np.float64], width: int) -> tuple[Ints, Ints]:
        """Choose (start in the part's tokens, length), both (n,), from draws (n, 4), for a canvas of `width`.

        The passages start at `first` and have `room` tokens.
        """
        longest = np.minimum(room, width)
        if self.config.embeddings == "stored":
            return first, longest
        shortest = np.minimum(self.config.min_tokens, longest)
        length = shortest + (draws[:, 1] * (longest - shortest + 1)).astype(np.int64)
        length = np.where(draws[:, 0] < self.config.full_windows, longest, length)
        position = first + (draws[:, 3] * (room - length + 1)).astype(np.int64)
        any_word = draws[:, 2] < self.config.any_word_start
        sentence = ~any_word & (draws[:, 2] < 1 - (1 - self.config.any_word_start) * (1 - SENTENCE_START))
        start = first.copy()
        for chosen, sentences in ((any_word, False), (sentence, True)):
            start[chosen] = self._last_start(part[chosen], first[chosen], position[chosen], sentences)
        return start, length

    def _last_start(self, part: Ints, first: Ints, position: Ints, sentences: bool) -> Ints:
        """The last start of a word (or sentence) at or before `position`; the passage's `first` where none is near."""
        width = SENTENCE_SEARCH if sentences else WORD_SEARCH
        kinds = self.kinds.take(self._rows(part, position - width - 1, width + 2))  # (n, width + 2), last: `position`
        here, before, earlier = kinds[:, 2:], kinds[:, 1:-1], kinds[:, :-2]
        if sentences:
            ended = (before & ENDS_SENTENCE) | (((before & CLOSES) >> 1) & earlier)  # CLOSES >> 1 is ENDS_SENTENCE
            good = ((here & STARTS_SENTENCE) != 0) & (ended != 0)
        else:
            good = (here & STARTS_WORD) > (before & APOSTROPHE)
        back = good[:, ::-1].argmax(axis=1)  # 0 also where no column is good, as the next line sees
        found = np.where(good[np.arange(len(back)), width - 1 - back], position - back, first)
        return np.maximum(found, first)

    def _cut(self, part: Ints, start: Ints, length: Ints, width: int) -> Ints:
        """Copy windows out of the shards onto canvases (n, width)."""
        canvas = self._rows(part, start, width).astype(np.int64)
        column = np.arange(width)
        canvas[column >= length[:, None]] = self.pad_id
        short = np.flatnonzero(length < width)
        canvas[short, length[short]] = self.eos_id
        return canvas

    def _rows(self, part: Ints, start: Ints, width: int) -> NDArray[Any]:
        """Each part's tokens[start : start + width], (n, width); the first or last token beyond the file's ends."""
        rows = np.empty((len(part), width), dtype=self.token_dtype)
        for index in np.unique(part):
            chosen = np.flatnonzero(part == index)
            rows[chosen] = np.take(self.shards[index].tokens, start[chosen, None] + np.arange(width), mode="clip")
        return rows


def _kinds(tokenizer: "Tokenizer") -> NDArray[np.uint8]:
    """What each token can do to the start of a window, as flags (vocab_size,)."""
    kinds = np.zeros(tokenizer.vocab_size, dtype=np.uint8)
    for token, starts_word in enumerate(tokenizer.starts_word):
        piece = tokenizer.token(token).strip()
        if starts_word:
            kinds[token] = STARTS_WORD if piece[:1].isdigit() else STARTS_WORD | STARTS_SENTENCE
        elif piece and not any(map(str.isalnum, piece)):
            kinds[token] |= ENDS_SENTENCE if set(piece) & set(STOPS) else 0
            kinds[token] |= CLOSES if set(piece) <= set(CLOSING) else 0
            kinds[token] |= APOSTROPHE if piece in APOSTROPHES else 0
    return kinds
