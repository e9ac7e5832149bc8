"""A store in memory, and an inverter that knows some texts: what audits are tested with."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fakes import FakeEncoder, fake_encoder, tiny_parts, tiny_texts
from unembed.alignment.aligner import Aligner
from unembed.alignment.linear import normalised
from unembed.decoding.inversion import Inversion
from unembed.errors import DataError
from unembed.inverter import Inverter
from unembed.stores.store import Collection, Rows

WORDS = ["old", "small", "red", "quiet", "bright", "cold", "young", "green", "wild", "slow"]


class MemoryStore:
    """Collections of vectors with texts, hashes or neither."""

    kind = "memory"

    def __init__(self, location: str = "here", **collections: Any) -> None:
        self.location = location
        self.notes: list[str] = []
        self.closed = False
        self.batches = 0  # that were read
        self.kept = {name: (Collection(name), one) for name, one in collections.items()}

    def describe(self, name: str, **changes: Any) -> "MemoryStore":
        """The store, with more said of a collection."""
        self.kept[name] = (Collection(name, **changes), self.kept[name][1])
        return self

    def collections(self) -> list[Collection]:
        return [one for one, _ in self.kept.values()]

    def rows(self, name: str, batch: int = 16) -> Iterator[Rows]:
        found = self.kept[name][1]
        if isinstance(found, Exception):
            raise found
        for start in range(0, len(found), 16):
            self.batches += 1
            part = range(start, min(start + 16, len(found)))
            hashes = None if found.hashes is None else [found.hashes[i] for i in part]
            yield Rows(
                [found.ids[i] for i in part], found.vectors[part.start : part.stop], [found.texts[i] for i in part],
                [found.metadata[i] for i in part], hashes,
            )  # fmt: skip

    def close(self) -> None:
        self.closed = True


def rows(
    vectors: np.ndarray, texts: Sequence[str | None] | None = None, hashes: list[str | None] | None = None
) -> Rows:
    """Rows with the ids r0, r1, ..."""
    n = len(vectors)
    told = [None] * n if texts is None else list(texts)
    return Rows([f"r{i}" for i in range(n)], vectors.astype(np.float32), told, [{"page": i} for i in range(n)], hashes)


class KnowingInverter(Inverter):
    """Finds the nearest of the texts that it knows; blind it has one adjective wrong, guided it is right.

    Attributes:
        rows: that it was asked to invert so far.
        stop: raised at this row, once.
    """

    def __init__(self, texts: Sequence[str], encoder: FakeEncoder | None = None) -> None:
        super().__init__(tiny_parts(), encoder or fake_encoder())
        self.known = list(texts)
        self.vectors = normalised(self.encode(self.known))
        self.map: Aligner | None = None
        self.seen: list[int] = []
        self.stop: list[tuple[int, BaseException]] = []

    def invert(self, embeddings: Any, decoding: Any = None, search: Any = None, **options: Any) -> list[Inversion]:
        first = options.get("first_row", 0)
        found = []
        for row, e_D in enumerate(np.asarray(embeddings, np.float32), first):
            if self.stop and self.stop[0][0] <= row and len(embeddings) < 40:
                raise self.stop.pop()[1]
            self.seen.append(row)
            x_D = normalised(e_D[None]) if self.map is None else self.map(normalised(e_D[None]))
            text = self.known[int((x_D @ self.vectors.T).argmax())]
            words = text.split()
            wrong = [i for i, word in enumerate(words) if word in WORDS]
            if search is None and wrong:
                words[wrong[0]] = WORDS[(WORDS.index(words[wrong[0]]) + 1) % len(WORDS)]
            ids = self.tokenizer.encode(" ".join(words))
            text = self.tokenizer.decode(ids)
            canvas = self.tokenizer.canvas(ids, self.length)
            found.append(Inversion(text, [], [], canvas, 0.0, 1, 0 if search is None else 7))
        return found

    def aligned(self, aligner: Any, encoder: Any = None) -> "KnowingInverter":
        other = copy.copy(self)
        other.map = aligner if isinstance(aligner, Aligner) else Aligner.load(aligner)
        return other

    def asking(self, encoder: Any) -> "KnowingInverter":
        other = copy.copy(self)
        other._encoder = encoder
        return other


def texts(n: int, seed: int = 0) -> list[str]:
    """Sentences, no two alike."""
    return list(dict.fromkeys(tiny_texts(4 * n, seed)))[:n]


def opening(*stores: MemoryStore) -> Any:
    """Instead of `open_store`: URIs are locations."""

    def open_one(uri: str) -> tuple[MemoryStore, str]:
        location, _, chosen = uri.partition("#")
        for store in stores:
            if store.location == location:
                return store, chosen
        raise DataError(f"{uri}: no such store")

    return open_one
