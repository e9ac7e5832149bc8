"""Where the vectors of one Chroma collection are: in its index, or in the queue of what the index has not taken yet.

Chroma writes every change to the table `embeddings_queue` and to the metadata tables at once, and to the index after
`sync_threshold` changes (1000). `max_seq_id` says how far a segment has come. The index numbers its rows by labels;
`index_metadata.pickle` maps ids to them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError
from unembed.stores.chroma.hnsw import Index
from unembed.stores.pickles import Instance, PickleError, read_pickle
from unembed.stores.sqlite_files import Database
from unembed.stores.store import Floats

TOPIC = "persistent://default/default/"
ADD, UPDATE, UPSERT, DELETE = range(4)
CLASS = "chromadb.segment.impl.vector.local_persistent_hnsw.PersistentData"  # before version 1.0
PICKLE_BYTES = 1 << 28  # about 2 million rows
PARAMETERS = 500  # of one query
UNIT = 1e-3  # how far a norm of a cosine index may be from 1


class Vectors:
    """The vectors of one collection.

    Attributes:
        index: None where there is none yet, or where it cannot be read.
        labels: of the index, by ids.
        queued: of each id that the queue changes, the place of its vector in the queue, None where it is deleted.
        notes: what could not be read.
    """

    def __init__(
        self, folder: Path, database: Database | None = None, collection: str = "", segment: str = "", metric: str = ""
    ) -> None:
        self.notes: list[str] = []
        self.index: Index | None = None
        self.labels: dict[str, int] = {}
        self.queued: dict[str, int | None] = {}
        self._unread = False
        self._database, self._topic = database, TOPIC + collection
        try:
            closed = folder.is_dir() and not os.access(folder, os.X_OK)
            if closed or (folder / "header.bin").exists():
                self.index = Index(folder)
                self.notes += self.index.notes
        except DataError as error:
            self._unread = True
            self.notes.append(str(error))
        state = self._read_labels(folder / "index_metadata.pickle")
        self._lengths = self._scale(metric) if self.index else None
        if database is not None and collection:
            self._replay(max(synced(database, segment), _whole(state.get("max_seq_id"))))

    def _read_labels(self, path: Path) -> dict[Any, Any]:
        if not self.index or not self.index.count:
            return {}
        try:
            with path.open("rb") as file:
                data = file.read(PICKLE_BYTES + 1)
            if len(data) > PICKLE_BYTES:
                raise PickleError(f"larger than {PICKLE_BYTES >> 20} MiB")
            state = read_pickle(data, {CLASS})
            state = state.state if isinstance(state, Instance) else state
            labels = state.get("id_to_label") if isinstance(state, dict) else None
            if not isinstance(labels, dict) or not all(
                isinstance(one, int) and 0 <= one < 1 << 62 for one in labels.values()
            ):
                raise PickleError("it holds no labels")
        except (OSError, PickleError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.notes.append(f"{path.parent.name}/{path.name}: the rows of the index have no ids ({reason})")
            return {}
        self.labels = {str(key): label for key, label in labels.items()}
        return {"max_seq_id": state["max_seq_id"]} if "max_seq_id" in state else {}

    def _scale(self, metric: str) -> Floats | None:
        """By what the index' vectors are multiplied: the norms of a cosine index."""
        assert self.index
        try:
            lengths = self.index.lengths()
        except DataError as error:
            lengths = np.full(self.index.count, np.nan, np.float32)
            if metric == "cosine":
                self.notes.append(f"{error}; its vectors are read with norm 1")
        sane = (lengths > 1e-12) & (lengths < 1e12)
        if not metric:  # of a collection that is gone: what is divided by its norms has norm 1
            some = self.index.vectors(np.arange(min(self.index.count, 256)))
            norms = np.linalg.norm(some.astype(np.float64), axis=1)
            metric = "cosine" if len(some) and sane.mean() > 0.99 and (np.abs(norms - 1) < UNIT).all() else "l2"
        return np.where(sane, lengths, np.float32(1)) if metric == "cosine" else None

    def _replay(self, after: int) -> None:
        """What the index has yet to take, as Chroma would apply it."""
        assert self._database
        columns = ["operation", "id", "encoding"]
        for place, operation, name, encoding in self._database.scan(
            "embeddings_queue", columns, "topic = ? AND seq_id > ?", (self._topic, after)
        ):
            if not isinstance(name, str):
                continue
            here = self.queued[name] is not None if name in self.queued else name in self.labels
            if operation == DELETE:
                self.queued[name] = None
            elif encoding and (
                operation == UPSERT or (operation == ADD and not here) or (operation == UPDATE and here)
            ):
                self.queued[name] = place

    @property
    def dimension(self) -> int | None:
        """Of the index' vectors."""
        return self.index.dimension if self.index and self.index.count else None

    @property
    def known(self) -> bool:
        """Whether ids can be found in the index."""
        return bool(self.labels) or self.index is None or not self.index.count

    @property
    def damaged(self) -> bool:
        """Whether the index is there and cannot be read whole."""
        return self._unread or (self.index is not None and self.index.cut)

    def slots(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the index, -1 for ids that it does not have."""
        labels = np.fromiter((self.labels.get(one, -1) for one in ids), np.int64, len(ids))
        return self.index.slots(labels) if self.index else np.full(len(ids), -1)

    def of(self, ids: Sequence[str]) -> list[Floats | None]:
        """The newest vectors of ids, as they were given to Chroma; None where there is none."""
        places = [self.queued.get(one) for one in ids]
        queued = self.at([one for one in places if one is not None])
        stored = self.at_slots(self.slots(ids))
        found: list[Floats | None] = []
        for i, place in enumerate(places):
            vector = stored[i] if place is None else queued.get(place)
            found.append(vector if vector is not None and not np.isnan(vector).all() else None)
        return found

    def at_slots(self, slots: NDArray[np.int64]) -> Floats:
        """Rows of the index by their place in the file, not normalised."""
        if not self.index:
            return np.full((len(slots), 1), np.nan, np.float32)
        vectors = self.index.vectors(slots)
        if self._lengths is not None and len(self._lengths):
            vectors *= self._lengths[np.maximum(slots, 0)][:, None]
        return vectors

    def at(self, places: Sequence[int]) -> dict[int, Floats]:
        """Vectors of the queue by their place."""
        found: dict[int, Floats] = {}
        for start in range(0, len(places), PARAMETERS):
            some = places[start : start + PARAMETERS]
            sql = "SELECT seq_id, vector, encoding FROM embeddings_queue WHERE seq_id IN"
            for place, data, encoding in self._asked(f"{sql} ({', '.join('?' * len(some))})", some):
                if isinstance(data, bytes) and len(data) % 4 == 0:
                    found[place] = np.frombuffer(data, "<i4" if encoding == "INT32" else "<f4").astype(np.float32)
        return found

    def _asked(self, sql: str, parameters: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        return self._database.read(sql, parameters) if self._database is not None else iter(())


def synced(database: Database, segment: str) -> int:
    """How far a segment has come in the queue, -1 where it has not started; a blob before version 1.0."""
    if "max_seq_id" not in database.tables:
        return -1
    return _whole(database.one("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment,)))


def _whole(value: Any) -> int:
    if isinstance(value, bytes) and len(value) <= 8:
        return int.from_bytes(value, "big")
    return value if isinstance(value, int) else -1
