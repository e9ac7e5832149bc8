"""What stores behind HTTP have in common: requests that only read, pages that shrink, rows out of records.

An answer is bounded in bytes, in time and in the number of its lists and objects. One that is too large is asked for
again with fewer rows. Keys come from the environment, or a user and password from the address; neither is shown.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import httpx2

from unembed.encoders.http_client import HttpClient, RefusedError, TooLargeError, key_of
from unembed.errors import DataError, InputError, UnembedError, printable
from unembed.stores.records import Record, rows_of_pages, traces_of
from unembed.stores.rows import note, unknown
from unembed.stores.store import BATCH, Collection, Rows, Trace

ANSWER_BYTES = 1 << 25
WHOLE = 120.0  # seconds in which an answer must be whole
MOST = 1 << 20  # lists and objects in one answer, each of which takes some hundred bytes
PAGE_NUMBERS = 1 << 19  # of the vectors that are asked for at once: some 10 MB of JSON
SAMPLE = 10  # rows that tell whether there are texts

Query = Mapping[str, str | int] | Sequence[tuple[str, str | int]]
Transport = httpx2.BaseTransport | None


class Server:
    """A host that is asked for JSON.

    Args:
        location: http:// or https://, with a path where the store is below one.
        variable: of the environment, which holds the key.
        headers: what sends a key, and whatever else every request has.

    Raises:
        InputError: `location` is no address of a server.
    """

    def __init__(
        self,
        location: str,
        variable: str,
        headers: Callable[[str], dict[str, str]],
        transport: Transport = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        key = key_of(variable)
        self._client = HttpClient(location, "the store's address", "HOST[:PORT]", key, headers(key), transport, sleep)
        self._variable = variable
        self.shown = self._client.shown
        self.keyless = not key and not self._client.url.userinfo
        if self._client.url.query:
            raise InputError(f"the store's address is {self.shown!r}, expected none with a question mark")

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def get(self, *path: str, query: Query = ()) -> Any:
        """The JSON at a path. Raises as `ask`."""
        return self.ask("GET", path, query)

    def post(self, *path: str, body: Any, query: Query = ()) -> Any:
        """What a search or a listing answers. Raises as `ask`."""
        return self.ask("POST", path, query, body)

    def ask(self, method: str, path: Sequence[str], query: Query = (), body: Any = None) -> Any:
        """The JSON that a request is answered with in the end.

        Raises:
            RefusedError: the server refuses, or is not there.
            TooLargeError: the answer passes `ANSWER_BYTES`, or has more than `MOST` lists and objects.
            UnembedError: it fails, or answers with something else than JSON.
        """
        below = self._client.url.raw_path.decode().rstrip("/")
        target = "/".join([below, *(quote(part, safe="", errors="replace") for part in path)])
        target += f"?{urlencode(query, errors='replace')}" if query else ""
        url = self._client.url.copy_with(raw_path=target.encode())
        try:
            _, content = self._client.ask(method, url, body, ANSWER_BYTES, WHOLE)
        except RefusedError as error:
            if error.status not in (401, 403):
                raise
            raise RefusedError(f"{error}; its key is read from {self._variable}", error.status) from error
        if content.count(b"[") + content.count(b"{") > MOST:
            raise TooLargeError(f"{self.shown}: the answer has more than {MOST:,} lists and objects")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UnembedError(f"{self.shown}: the answer is not JSON; check the address") from error


class HttpStore(ABC):
    """A store behind HTTP. A subclass says what is in it and gives its records; this makes rows of them."""

    kind = ""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.location = server.shown
        self.notes: list[str] = []

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    @abstractmethod
    def collections(self) -> list[Collection]:
        """All that hold vectors. Raises DataError, UnembedError."""

    @abstractmethod
    def records(self, name: str, size: int) -> tuple[int | None, Iterator[list[Record]]]:
        """The dimension of a collection, where it is known, and its records, `size` at most at once.

        Raises:
            DataError: there is no such collection.
        """

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """All rows of a collection in the order in which the server gives them. Raises as `Store.rows`."""
        dimension, pages = self.records(name, batch)
        yield from rows_of_pages(pages, dimension, batch, self.named(name), self.notes)

    def sampled(self, payloads: Sequence[Any], rows: int | None, where: str) -> tuple[bool, str, list[Trace]]:
        """What a sample of payloads gives away, as `traces_of`, and that no key is asked for."""
        texts, encoder, traces = traces_of(payloads, rows, where)
        if self._server.keyless:
            traces.append(Trace("readable", "The server answers without a key.", self.location))
        return texts, encoder, traces

    def named(self, name: str) -> str:
        """The store and a collection of it, as messages name them."""
        return f"{self.location}: {printable(name)}"

    def note(self, line: str) -> None:
        """Add to the notes, once."""
        note(self.notes, line)

    def unknown(self, name: str, known: Sequence[str]) -> DataError:
        """The error of a collection that is not there."""
        return unknown(known, name, self.location)

    def wrong(self, what: str) -> DataError:
        """The error of an answer of another shape than the documentation says."""
        return DataError(f"{self.location}: the answer has no {what}; check the address and the kind of store")


def page_size(size: int, dimension: int | None) -> int:
    """How many vectors are asked for at once."""
    return max(1, min(size, PAGE_NUMBERS // dimension)) if dimension else size


def paged(ask: Callable[[int, Any], tuple[list[Record], Any]], size: int, name: str) -> Iterator[list[Record]]:
    """Pages until there is no next one.

    Args:
        ask: takes how many rows and where to begin, None at first; gives records and where the next page begins.
        name: of the collection, in messages.

    Raises:
        DataError: a page ends where it began.
    """
    place = None
    while True:
        try:
            page, following = ask(size, place)
        except TooLargeError:
            if size == 1:
                raise
            size = max(1, size // 4)
            continue
        if page:
            yield page
        if following is None:
            return
        if following == place:
            raise DataError(f"{name}: a page of the answer is followed by itself")
        place = following


def counted(tree: Any, *path: str) -> int | None:
    """A count below keys, None where there is none."""
    found = entries(tree, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 63 else None


def entries(tree: Any, *path: str) -> Any:
    """What is below keys of objects, None where one is not there."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def mapping(tree: Any, *path: str) -> dict[str, Any]:
    """An object below keys, an empty one where there is none."""
    found = entries(tree, *path)
    return found if isinstance(found, dict) else {}


def objects(tree: Any, *path: str) -> list[dict[str, Any]]:
    """The objects of a list below keys."""
    found = entries(tree, *path)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def word(tree: Any, *path: str) -> str:
    """A string below keys, an empty one where there is none."""
    found = entries(tree, *path)
    return found if isinstance(found, str) else ""
