"""Pinecone, over its REST interface. A namespace of an index is a collection: `INDEX/NAMESPACE`.

The location is https://api.pinecone.io for all indexes of a project, or the host of one index, whose collections are
called by their namespaces alone. Ids are listed, which only serverless indexes can do, and fetched by the hundred. The
key is read from PINECONE_API_KEY. It is sent to the location, and to the hosts of indexes below pinecone.io.

Source: github.com/pinecone-io/pinecone-api, `2026-04/db_data_2026-04.oas.yaml` and `db_control_2026-04.oas.yaml`.
"""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from unembed.encoders.http_client import RefusedError
from unembed.errors import InputError, printable
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
from unembed.stores.store import Collection
from unembed.stores.traces import encoder_traces

KEY = "PINECONE_API_KEY"
VERSION = "2026-04"
ABSENT = (400, 404, 405, 501)  # statuses with which the host of an index may say that it lists no indexes
PAGE = 100  # ids that are listed, and fetched, at once
ADDRESS = 6000  # characters of the ids in one address
DOMAIN = ".pinecone.io"
HOST = re.compile(r"(?:https?://)?([a-z0-9.-]+)(:\d{1,5})?/?")
DEFAULT = "__default__"  # how a namespace without a name is called


def open(location: str) -> "Pinecone":  # noqa: A001
    """A project at https://api.pinecone.io, or an index at its host. Raises InputError: `location` is no address."""
    return Pinecone(location)


class Pinecone(HttpStore):
    """A project or an index, each namespace a collection. A `Store`."""

    kind = "pinecone"

    def __init__(self, location: str, transport: Transport = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._sleep = transport, sleep
        location = location or "https://api.pinecone.io"
        super().__init__(self._reach(location))
        self._url = urlsplit(location)
        self._hosts: dict[str, Server] = {}
        self._known: dict[str, tuple[Server, str, int | None]] = {}  # an index' server, a namespace, the dimension

    def _reach(self, location: str) -> Server:
        headers = lambda key: {"X-Pinecone-Api-Version": VERSION} | ({"Api-Key": key} if key else {})  # noqa: E731
        return Server(location, KEY, headers, self._transport, self._sleep)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        for server in self._hosts.values():
            server.close()

    def collections(self) -> list[Collection]:
        """All namespaces of the index, or of all indexes of the project. Raises DataError, UnembedError."""
        try:
            tree = self._server.get("indexes")
        except RefusedError as error:
            if error.status not in ABSENT:
                raise
            return self._index("", self._server, {})
        if not isinstance(entries(tree, "indexes"), list):
            raise self.wrong("indexes")
        found = []
        for held in objects(tree, "indexes"):
            name = word(held, "name")
            if word(held, "vector_type") == "sparse":
                self.note(f"{printable(name)}: sparse vectors are not read")
                continue
            try:
                found += self._index(name, self._server_of(word(held, "host")), held)
            except (RefusedError, InputError) as error:
                self.note(f"{printable(name)}: {error}")
        return found

    def records(self, name: str, size: int) -> tuple[int | None, Iterator[list[Record]]]:
        """Vectors of a namespace by their ids. Raises DataError: there is no such namespace."""
        if not self._known:
            self.collections()
        if name not in self._known:
            raise self.unknown(name, [*self._known])
        server, namespace, dimension = self._known[name]
        page = lambda size, place: self._page(server, namespace, size, place)  # noqa: E731
        return dimension, paged(page, page_size(min(size, PAGE), dimension), self.named(name))

    def _server_of(self, host: str) -> Server:
        """The server of an index. Raises InputError: the key is not for that host."""
        found = HOST.fullmatch(host)
        own = self._url.hostname or ""
        ours = found and (found[1] == own or (own.endswith(DOMAIN) and found[1].endswith(DOMAIN)))
        if not found or not ours:
            raise InputError(f"its host {printable(host)!r} is not below {DOMAIN[1:]}, and gets no key")
        location = f"{self._url.scheme}://{found[1]}{found[2] or ''}"
        return self._hosts.setdefault(location, self._reach(location))

    def _index(self, name: str, server: Server, held: dict[str, Any]) -> list[Collection]:
        stats = server.post("describe_index_stats", body={})
        if not isinstance(entries(stats, "namespaces"), dict):
            raise self.wrong(f"namespaces of {printable(name)}" if name else "namespaces")
        dimension = counted(stats, "dimension") or None
        encoder = word(held, "embed", "model")
        found = []
        for namespace, summary in mapping(stats, "namespaces").items():
            called = namespace or DEFAULT
            shown = f"{name}/{called}" if name else called
            rows = counted(summary, "vectorCount")
            records, _ = self._page(server, namespace, SAMPLE, None)
            texts, named, traces = self.sampled([one.payload for one in records], rows, shown)
            traces += encoder_traces(encoder, shown)
            metric = word(held, "metric") or word(stats, "metric")
            self._known[shown] = server, namespace, dimension
            found.append(
                Collection(shown, rows, dimension, "float32", metric, encoder or named, texts, traces=tuple(traces))
            )
        return found

    def _page(self, server: Server, namespace: str, size: int, place: Any) -> tuple[list[Record], Any]:
        query: dict[str, str | int] = {"limit": size, "namespace": namespace}
        listed = server.get("vectors", "list", query=query | ({"paginationToken": place} if place else {}))
        if not isinstance(entries(listed, "vectors"), list):
            raise self.wrong("vectors")
        ids = [word(one, "id") for one in objects(listed, "vectors")]
        if any(" " in one for one in ids):
            self.note(f"{printable(namespace or DEFAULT)}: ids with spaces cannot be fetched, and are not read")
            ids = [one for one in ids if " " not in one]
        following = entries(listed, "pagination", "next") or None
        if not isinstance(following, str | None):
            raise self.wrong("pagination.next")
        return [one for part in _parts(ids) for one in self._fetch(server, namespace, part)], following

    def _fetch(self, server: Server, namespace: str, ids: list[str]) -> list[Record]:
        query = [*(("ids", one) for one in ids), ("namespace", namespace)]
        held = mapping(server.get("vectors", "fetch", query=query), "vectors")
        return [Record(one, entries(held, one, "values"), entries(held, one, "metadata")) for one in ids if one in held]


def _parts(ids: list[str]) -> Iterator[list[str]]:
    """Ids that fit in one address each."""
    part: list[str] = []
    for one in ids:
        if part and sum(len(quote(other, errors="replace")) + 5 for other in [*part, one]) > ADDRESS:
            yield part
            part = []
        part.append(one)
    if part:
        yield part
