"""The folder of the Qdrant client's local mode: `meta.json`, and one SQLite file of pickled points a collection.

The pickles are read as data (`pickles.py`). They hold vectors as they were given; those of a cosine collection that
were changed later, the client writes normalised.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import DataError
from unembed.stores import traces
from unembed.stores.local import existing, json_file
from unembed.stores.names import SAMPLE, text_field
from unembed.stores.pickles import Instance, PickleError, read_pickle
from unembed.stores.rows import WIDEST, Faults, Row, batched, chosen, metadata
from unembed.stores.sqlite_files import Database
from unembed.stores.store import BATCH, Collection, Floats, Rows, Trace

POINT = "qdrant_client.http.models.models.PointStruct"
CLASSES = {POINT, "qdrant_client.http.models.models.SparseVector"}
POINT_BYTES = 1 << 24


@dataclass(frozen=True)
class Space:
    """One vector of each point of a collection; `vector` is "" where it has no name."""

    collection: str
    vector: str
    dimension: int
    metric: str

    @property
    def name(self) -> str:
        """As after `#` in a URI."""
        return f"{self.collection}/{self.vector}" if self.vector else self.collection


class QdrantFolder:
    """A folder of the Qdrant client; see `Store`."""

    kind = "qdrant"

    def __init__(self, location: str) -> None:
        self.location, self.notes, self._folder = location, list[str](), existing(location)
        self._meta = json_file(self._folder / "meta.json").get("collections")
        if not isinstance(self._meta, dict):
            raise DataError(
                f"{self._folder / 'meta.json'}: names no collections, expected the folder of a Qdrant client"
            )
        self._spaces = [space for name, tree in self._meta.items() for space in self._spaces_of(str(name), tree)]

    def _spaces_of(self, collection: str, tree: Any) -> Iterator[Space]:
        vectors = tree.get("vectors") if isinstance(tree, dict) else None
        if isinstance(tree, dict) and isinstance(tree.get("sparse_vectors"), dict):
            self.notes += [f"{collection}/{name}: sparse vectors are not read" for name in tree["sparse_vectors"]]
        if not isinstance(vectors, dict):
            return
        for name, one in ({"": vectors} if "size" in vectors else vectors).items():
            size = one.get("size") if isinstance(one, dict) else None
            if not isinstance(size, int) or not 0 < size <= WIDEST:
                self.notes.append(f"{collection}/{name}: is not read, meta.json gives it no size".replace("/:", ":"))
            elif one.get("multivector_config"):
                self.notes.append(f"{collection}/{name}: several vectors a point are not read".replace("/:", ":"))
            else:
                yield Space(collection, str(name), size, str(one.get("distance") or "").lower())

    def _open(self, collection: str) -> Database:
        file = self._folder / "collection" / collection / "storage.sqlite"
        if Path(collection).name != collection or collection == "..":
            raise DataError(
                f"{self._folder / 'meta.json'}: names a collection {collection!r}, expected a folder's name"
            )
        database = Database(file, self.notes)
        try:
            database.need("a Qdrant folder", points=["point"])
        except BaseException:
            database.close()
            raise
        return database

    def collections(self) -> list[Collection]:
        """See `Store`. Each named vector is one, `COLLECTION/VECTOR`."""
        common = traces.of_store(self._folder)
        return [self._described(space, common) for space in self._spaces]

    def _described(self, space: Space, common: list[Trace]) -> Collection:
        with closing(self._open(space.collection)) as database:
            count = int(database.one("SELECT count(*) FROM points") or 0)
            sample = list(_payloads(database))
            own = database.traces()
        field = text_field(sample)
        if field:
            own.append(traces.text_trace(f"{space.collection}: {field}", count))
        settings = self._meta[space.collection] if self._meta else {}
        texts = [one for payload in sample for one in traces.assignments(payload, f"{space.collection}: payload")]
        return Collection(
            name=space.name,
            rows=None if space.vector else count,  # a point may lack a named vector
            dimension=space.dimension,
            metric=space.metric,
            has_text=bool(field),
            traces=(
                *own,
                *traces.of_settings(settings, "meta.json"),
                *traces.secrets(texts),
                *common,
            ),
        )

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """See `Store`."""
        space = chosen({one.name: one for one in self._spaces}, name, self.location)
        with closing(self._open(space.collection)) as database:
            field = text_field(_payloads(database))
            faults = Faults(name)
            try:
                yield from batched(_rows(database, space, field, faults), space.dimension, batch)
            finally:
                faults.tell(self.notes)
                database.check_unchanged()

    def close(self) -> None:
        """See `Store`; files are open only while they are read."""


def _payloads(database: Database) -> Iterator[dict[str, Any]]:
    """Of the first points, those that can be read."""
    for _, (_, data) in zip(range(SAMPLE), database.scan("points", ["point"]), strict=False):
        try:
            yield _point(data)[2]
        except PickleError:
            continue


def _rows(database: Database, space: Space, field: str, faults: Faults) -> Iterator[Row]:
    for number, data in database.scan("points", ["point"]):
        try:
            key, vectors, payload = _point(data)
        except PickleError as error:
            faults.add(f"points that are not read ({error})", f"row {number}")
            yield Row(f"row {number}", None)
            continue
        found = vectors.get(space.vector) if isinstance(vectors, dict) else vectors
        if space.vector and isinstance(vectors, dict) and found is None:
            continue
        vector = _vector(found)
        if vector is None or len(vector) != space.dimension:
            faults.add(f"points without a vector of {space.dimension} numbers", key)
        text = payload.pop(field, None) if field else None
        yield Row(key, vector, text if isinstance(text, str) else None, metadata(payload))


def _point(data: Any) -> tuple[str, Any, dict[str, Any]]:
    """Id, vectors and payload of a point. Raises PickleError."""
    if not isinstance(data, bytes) or len(data) > POINT_BYTES:
        raise PickleError("no pickle, or a larger one than is read")
    point = read_pickle(data, CLASSES)
    fields = point.state.get("__dict__") if isinstance(point, Instance) and isinstance(point.state, dict) else None
    if not isinstance(fields, dict) or point.of != POINT:
        raise PickleError("a pickle that is no point")
    payload, key = fields.get("payload"), fields.get("id")
    if not isinstance(key, str | int):
        raise PickleError("a point without an id")
    return str(key), fields.get("vector"), dict(payload) if isinstance(payload, dict) else {}


def _vector(values: Any) -> Floats | None:
    if not isinstance(values, list) or not all(isinstance(one, float | int) for one in values):
        return None
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(np.float32)
