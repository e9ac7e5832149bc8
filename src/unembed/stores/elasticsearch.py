"""Elasticsearch from version 8 on, and OpenSearch. A field of vectors in an index is a collection: `INDEX/FIELD`.

Fields are found in the mappings: `dense_vector` and `rank_vectors`, OpenSearch's `knn_vector`. Documents come by a
scrolled search in the order of the index, whose context is closed at the end; it is the only thing that the server
keeps, and it changes no data. The key is read from ELASTIC_API_KEY, or a user and password from the address.

From 9.2 on a new index leaves its vectors out of what a search returns, unless `exclude_vectors` is false. Versions
that do not know that word refuse it, and are asked again without.

Sources: the dense_vector and scroll pages of elastic.co/docs, `specification/_global/search` of
github.com/elastic/elasticsearch-specification, and docs.opensearch.org/latest/api-reference/search-apis/scroll.
"""

import base64
import binascii
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from unembed.encoders.http_client import RefusedError, TooLargeError
from unembed.errors import UnembedError, printable
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
    word,
)
from unembed.stores.store import Collection, Trace

KEY = "ELASTIC_API_KEY"
VECTORS = {"dense_vector": "dims", "rank_vectors": "dims", "knn_vector": "dimension"}  # where a type's dimension is
UNREAD = ("semantic_text", "sparse_vector", "rank_features")
NUMBERS = {"float": "float32", "byte": "int8", "bit": "bit", "binary": "bit", "bfloat16": "bfloat16"}
WINDOW = 10_000  # hits that one answer may have
KEEP = "5m"  # that a search stays open without a request
DEEPEST = 16  # objects within objects of a mapping


def open(location: str) -> "Elasticsearch":  # noqa: A001
    """A server at http(s)://[USER:PASSWORD@]HOST[:PORT]. Raises InputError: `location` is no address."""
    return Elasticsearch(location)


@dataclass(frozen=True)
class Field:
    """A field of vectors; `path` leads to it through objects, some of which may be `nested` and have several."""

    index: str
    path: tuple[str, ...]
    kind: str
    dimension: int | None
    number: str
    metric: str
    nested: bool

    @property
    def shown(self) -> str:
        """The collection's name: no index' name has a slash."""
        return f"{self.index}/{'.'.join(self.path)}"


class Elasticsearch(HttpStore):
    """A cluster, each field of vectors of each of its indices a collection. A `Store`."""

    kind = "elasticsearch"

    def __init__(self, location: str, transport: Transport = None, sleep: Callable[[float], None] = time.sleep) -> None:
        headers = lambda key: {"Authorization": f"ApiKey {key}"} if key else {}  # noqa: E731
        super().__init__(Server(location, KEY, headers, transport, sleep))
        self._source: Any = {"exclude_vectors": False}
        self._known: list[Field] = []

    def collections(self) -> list[Collection]:
        """All fields of vectors of all open indices. Raises DataError, UnembedError."""
        found = []
        for field in self._fields():
            try:
                found.append(self._collection(field))
            except RefusedError as error:  # a key may be for some indices only
                self.note(f"{printable(field.shown)}: {error}")
        return found

    def records(self, name: str, size: int) -> tuple[int | None, Iterator[list[Record]]]:
        """Documents that have the field, in the order of the index. Raises DataError: there is no such field."""
        fields = self._fields()
        field = next((one for one in fields if one.shown == name), None)
        if field is None:
            raise self.unknown(name, [one.shown for one in fields])
        return field.dimension, self._pages(field, page_size(min(size, WINDOW), field.dimension))

    def _fields(self) -> list[Field]:
        if not self._known:
            tree = self._server.get("_mapping")
            if not isinstance(tree, dict):
                raise self.wrong("mappings")
            for index, held in sorted(tree.items()):
                self._known += self._below(index, mapping(held, "mappings", "properties"), (), False)
        return self._known

    def _below(self, index: str, properties: dict[str, Any], path: tuple[str, ...], nested: bool) -> Iterator[Field]:
        """The fields of vectors of a mapping, at any depth."""
        for name, held in properties.items():
            here, kind = (*path, name), word(held, "type")
            if kind in VECTORS:
                number = word(held, "element_type") or word(held, "data_type") or "float"
                metric = word(held, "similarity") or word(held, "space_type") or word(held, "method", "space_type")
                dimension = counted(held, VECTORS[kind]) or None
                yield Field(index, here, kind, dimension, NUMBERS.get(number, number), metric, nested)
            elif kind in UNREAD:
                self.note(f"{printable(index)}/{printable('.'.join(here))}: fields of type {kind} are not read")
            elif len(here) < DEEPEST:
                yield from self._below(index, mapping(held, "properties"), here, nested or kind == "nested")

    def _collection(self, field: Field) -> Collection:
        rows = None
        if not field.nested:
            query = {"exists": {"field": ".".join(field.path)}}
            rows = counted(self._server.post(field.index, "_count", body={"query": query}), "count")
        hits = self._search(field, SAMPLE, {})
        payloads = [one.payload for hit in objects(hits, "hits", "hits") for one in self._records(field, hit)]
        texts, encoder, traces = self.sampled(payloads, rows, field.index)
        with suppress(RefusedError):
            stats = self._server.get(field.index, "_stats", "docs")
            if deleted := counted(stats, "indices", field.index, "primaries", "docs", "deleted"):
                detail = "Deleted or replaced documents stay in their segments until these are merged."
                traces.append(Trace("deleted", detail, field.index, deleted))
        about: dict[str, Any] = {"type": field.kind, "nested": field.nested}
        about |= {"bits": "-1 and +1"} if field.number == "bit" else {}
        return Collection(
            field.shown, rows, field.dimension, field.number, field.metric, encoder, texts, False, tuple(traces), about
        )

    def _search(self, field: Field, size: int, query: dict[str, str]) -> Any:
        """The first hits of a search for documents that have the field."""
        exists: dict[str, Any] = {"exists": {"field": ".".join(field.path)}}
        body = {"size": size, "sort": ["_doc"], "_source": self._source, "track_total_hits": False}
        body |= {"query": {"match_all": {}} if field.nested else exists}
        try:
            return self._server.post(field.index, "_search", body=body, query=query)
        except RefusedError as error:
            if error.status != 400 or self._source is True:
                raise
            self._source = True
            return self._server.post(field.index, "_search", body=body | {"_source": True}, query=query)

    def _pages(self, field: Field, size: int) -> Iterator[list[Record]]:
        """All hits. A search that answers too much at once is begun anew with fewer hits, past those that came."""
        done = 0
        while True:
            skip = done
            try:
                for hits in self._scrolled(field, size):
                    fresh = hits[skip:]
                    skip -= len(hits) - len(fresh)
                    done += len(fresh)
                    if page := [record for hit in fresh for record in self._records(field, hit)]:
                        yield page
                return
            except TooLargeError:
                if size == 1:
                    raise
                size = max(1, size // 4)

    def _scrolled(self, field: Field, size: int) -> Iterator[list[dict[str, Any]]]:
        """Pages of hits of one search, which is closed in the end."""
        tree = self._search(field, size, {"scroll": KEEP})
        scroll = word(tree, "_scroll_id")
        try:
            while hits := objects(tree, "hits", "hits"):
                if entries(tree, "_shards", "failed"):
                    raise UnembedError(f"{self.named(field.shown)}: a shard failed, so that not all would be read")
                yield hits
                tree = self._server.post("_search", "scroll", body={"scroll": KEEP, "scroll_id": scroll})
                scroll = word(tree, "_scroll_id") or scroll
            if not isinstance(entries(tree, "hits", "hits"), list):
                raise self.wrong("hits.hits")
        finally:
            with suppress(UnembedError):  # it closes itself after `KEEP`
                self._server.ask("DELETE", ["_search", "scroll"], body={"scroll_id": scroll})

    def _records(self, field: Field, hit: dict[str, Any]) -> list[Record]:
        """The vectors of a document. One of several in it has `/0`, `/1` after its id, and the object that it is in."""
        source = mapping(hit, "_source")
        found = _taken(source, field.path)
        others = [one.path for one in self._known if one.index == field.index]
        for path in others:
            _taken(source, path)
        if not field.nested:
            vector = found[0][0] if found else None
            return [Record(hit.get("_id"), decoded(vector, field), source)]
        outer = {name: value for name, value in source.items() if not isinstance(value, list | dict)}
        return [
            Record(f"{hit.get('_id')}/{place}", decoded(vector, field), outer | inner)
            for place, (vector, inner) in enumerate(found)
        ]


def _taken(tree: Any, path: tuple[str, ...]) -> list[tuple[Any, dict[str, Any]]]:
    """The values at a path, which are taken out, each with the object that it was in."""
    if isinstance(tree, list):
        return [pair for one in tree for pair in _taken(one, path)]
    if not isinstance(tree, dict):
        return []
    if len(path) > 1:
        return _taken(tree.get(path[0]), path[1:])
    return [(tree.pop(path[0]), tree)] if path[0] in tree else []


def decoded(value: Any, field: Field) -> Any:
    """A vector as a document has it: numbers, hex digits of bytes, or base64 of big-endian float32.

    Bits, eight in a byte, are -1 and +1.
    """
    packed = field.number in ("bit", "int8")
    if isinstance(value, str):
        try:
            if packed:
                value = np.frombuffer(bytes.fromhex(value), np.int8)
            else:
                value = np.frombuffer(base64.b64decode(value, validate=True), ">f4")
        except (ValueError, binascii.Error):
            return []
    if field.number == "bit":
        try:
            return 2.0 * np.unpackbits(np.asarray(value, np.int8).view(np.uint8)) - 1.0
        except (TypeError, ValueError, OverflowError):
            return []
    return value
