"""A Qdrant server, over its REST interface. A named vector is a collection of its own: `COLLECTION/VECTOR`.

Points come by `points/scroll`, in the order of their ids. Where the distance is cosine, Qdrant keeps vectors at unit
length. The key is read from QDRANT_API_KEY; one that may only read is enough.

Source: Qdrant's OpenAPI definition, `docs/redoc/master/openapi.json` of github.com/qdrant/qdrant.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from unembed.encoders.http_client import RefusedError, TooLargeError
from unembed.errors import printable
from unembed.stores.records import Record
from unembed.stores.server import (
    SAMPLE,
    HttpStore,
    Server,
    Transport,
    counted,
    entries,
    mapping,
    objects,
    page_size,
    paged,
    word,
)
from unembed.stores.store import Collection, Trace
from unembed.tables.values import plain

KEY = "QDRANT_API_KEY"
QUANTISED = "turbo4"  # the type of numbers of which only an approximation is kept
DETAILS = 4  # level of telemetry that tells of segments


def open(location: str) -> "QdrantServer":  # noqa: A001
    """A server at http(s)://HOST[:PORT]. Raises InputError: `location` is no address."""
    return QdrantServer(location)


class QdrantServer(HttpStore):
    """A server, each vector of each of its collections a collection. A `Store`."""

    kind = "qdrant"

    def __init__(self, location: str, transport: Transport = None, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(Server(location, KEY, lambda key: {"api-key": key} if key else {}, transport, sleep))
        self._known: dict[str, tuple[str, str, int | None]] = {}  # collection, vector and dimension

    def collections(self) -> list[Collection]:
        """All dense vectors of all collections; sparse ones are noted. Raises DataError, UnembedError."""
        tree = self._server.get("collections")
        if not isinstance(entries(tree, "result", "collections"), list):
            raise self.wrong("result.collections")
        deleted = self._deleted()
        found = []
        for one in objects(tree, "result", "collections"):
            try:
                found += self._collection(word(one, "name"), deleted)
            except RefusedError as error:  # a key may be for some collections only
                self.note(str(error))
        return found

    def records(self, name: str, size: int) -> tuple[int | None, Iterator[list[Record]]]:
        """Points of a collection by their ids. Raises DataError: there is no such collection."""
        if not self._known:
            self.collections()
        if name not in self._known:
            raise self.unknown(name, [*self._known])
        collection, vector, dimension = self._known[name]
        return dimension, paged(partial(self._page, collection, vector), page_size(size, dimension), self.named(name))

    def _collection(self, name: str, deleted: dict[tuple[str, str], int]) -> list[Collection]:
        info = self._server.get("collections", name)
        vectors = mapping(info, "result", "config", "params", "vectors")
        vectors = {"": vectors} if isinstance(vectors.get("size"), int) else vectors
        for vector in mapping(info, "result", "config", "params", "sparse_vectors"):
            self.note(f"{printable(f'{name}/{vector}')}: sparse vectors are not read")
        rows = counted(info, "result", "points_count")
        sample = self._scroll(name, {"limit": SAMPLE, "with_payload": True, "with_vector": False})[0]
        texts, encoder, traces = self.sampled([one.get("payload") for one in sample], rows, name)
        traces += self._snapshots(name)
        found = []
        for vector, config in vectors.items():
            count = None if vector else rows  # a point may lack a named vector, or have several
            shown = f"{name}/{vector}" if vector else name
            number = word(config, "datatype") or "float32"
            own = [*traces]
            if gone := deleted.get((name, vector)):
                own.append(Trace("deleted", "Deleted vectors stay until their segment is optimised.", shown, gone))
            about = {
                "quantization": plain(
                    entries(config, "quantization_config") or entries(info, "result", "config", "quantization_config")
                ),
                "metadata": plain(entries(info, "result", "config", "metadata")),
                "multivector": entries(config, "multivector_config") is not None,
            }
            dimension = counted(config, "size")
            self._known[shown] = name, vector, dimension
            metric = word(config, "distance").lower()
            lossy = number == QUANTISED
            found.append(Collection(shown, count, dimension, number, metric, encoder, texts, lossy, tuple(own), about))
        return found

    def _page(self, collection: str, vector: str, size: int, place: Any) -> tuple[list[Record], Any]:
        body = {"limit": size, "with_payload": True, "with_vector": [vector] if vector else True}
        points, following = self._scroll(collection, body | ({} if place is None else {"offset": place}))
        return [
            Record(one.get("id"), _vector(one.get("vector"), vector), one.get("payload")) for one in points
        ], following

    def _scroll(self, collection: str, body: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
        """Points, and the id at which the next page begins."""
        tree = self._server.post("collections", collection, "points", "scroll", body=body)
        if not isinstance(entries(tree, "result", "points"), list):
            raise self.wrong(f"points of {printable(collection)}")
        return objects(tree, "result", "points"), entries(tree, "result", "next_page_offset")

    def _snapshots(self, name: str) -> list[Trace]:
        try:
            held = objects(self._server.get("collections", name, "snapshots"), "result")
        except RefusedError:  # a key that only reads may not be told
            return []
        return [Trace("copy", f"Snapshots of it lie on the server: {len(held):,}.", name)] if held else []

    def _deleted(self) -> dict[tuple[str, str], int]:
        """How many vectors, by collection and name, are deleted and still in a segment of this node."""
        try:
            tree = self._server.get("telemetry", query={"details_level": DETAILS})
        except (RefusedError, TooLargeError):
            return {}
        found: Counter[tuple[str, str]] = Counter()
        for collection in objects(tree, "result", "collections", "collections"):
            for shard in objects(collection, "shards"):
                for segment in objects(shard, "local", "segments"):
                    for vector, data in mapping(segment, "info", "vector_data").items():
                        found[word(collection, "id"), vector] += counted(data, "num_deleted_vectors") or 0
        return found


def _vector(held: Any, name: str) -> Any:
    """The vector of a name out of what a point holds."""
    return held.get(name) if isinstance(held, dict) else held
