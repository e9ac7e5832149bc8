"""Rows out of Redis: hashes and JSON documents by SCAN, vector sets by their elements. Only commands that read.

A reply is as large as the server makes it. So values are measured before they are read, and many are read by parts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from unembed.errors import DataError, printable
from unembed.stores.records import Record
from unembed.stores.redis.values import count, items, numbers, of_document, pattern, readable, text, tree, vector

LARGEST_VALUE, PAGE_BYTES = 1 << 23, 1 << 25  # of one key, and of those that are read at once
UNMEASURED = 1 << 19  # bytes that a key is taken to have where the server does not tell
MOST_ELEMENTS = 1 << 20  # of a vector set whose elements come all at once


@dataclass(frozen=True)
class Source:
    """Where the vectors of a collection are.

    kind: `hash`, `json` or `set`. prefixes: of keys, or the vector set's key. field: of a hash, or a path in JSON.
    number: NumPy's type of what is in a hash.
    """

    kind: str
    prefixes: tuple[bytes, ...]
    field: str = ""
    number: str = "<f4"
    dimension: int | None = None


class Reader:
    """A connection that is read from.

    Args:
        client: of the package redis, with protocol 2.
        note: takes what could not be read.
    """

    def __init__(self, client: Any, note: Callable[[str], None]) -> None:
        self._client = client
        self._note = note

    def records(self, source: Source, size: int) -> Iterator[list[Record]]:
        """All rows of a collection, by parts. Raises DataError, redis.RedisError."""
        return self._elements(source, size) if source.kind == "set" else self._keys(source, size)

    def hashes(self, keys: Sequence[bytes]) -> list[dict[bytes, bytes]]:
        """Some hashes, without those that are too large."""
        found = [one for part in self._parts(keys) for one in self.each([("HGETALL", key) for key in part])]
        return [one for one in found if isinstance(one, dict)]

    def each(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of commands that are sent at once, an exception where one fails."""
        if not commands:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(pipeline.execute(raise_on_error=False))

    def _keys(self, source: Source, size: int) -> Iterator[list[Record]]:
        """The hashes or documents of all prefixes that have the field."""
        given = {*(source.prefixes or (b"",))}
        kind, read = ("hash", self._of_hashes) if source.kind == "hash" else ("ReJSON-RL", self._of_documents)
        for prefix in sorted(
            one for one in given if not any(one != other and one.startswith(other) for other in given)
        ):
            cursor = None
            while cursor != 0:
                cursor, keys = self._client.scan(cursor or 0, match=pattern(prefix), count=size, _type=kind)
                for start in range(0, len(keys), size):
                    for part in self._parts(keys[start : start + size]):
                        if page := read(source, part):
                            yield page

    def _of_hashes(self, source: Source, keys: Sequence[bytes]) -> list[Record]:
        found = []
        for key, held in zip(keys, self.each([("HGETALL", key) for key in keys]), strict=True):
            value = held.pop(source.field.encode("utf-8", "replace"), None) if isinstance(held, dict) else None
            if value is not None:
                found.append(Record(text(key), vector(value, source.number), readable(held)))
        return found

    def _of_documents(self, source: Source, keys: Sequence[bytes]) -> list[Record]:
        documents = self.each([("JSON.GET", key) for key in keys])
        vectors = self.each([("JSON.GET", key, source.field) for key in keys])
        return [
            record
            for key, document, found in zip(keys, documents, vectors, strict=True)
            for record in of_document(text(key), document, source.field, found)
        ]

    def _elements(self, source: Source, size: int) -> Iterator[list[Record]]:
        """The elements of a vector set by their names, with their attributes."""
        (key,) = source.prefixes
        for names in self._names(key, size):
            vectors = self.each([("VEMB", key, name) for name in names])
            attributes = self.each([("VGETATTR", key, name) for name in names])
            yield [
                Record(text(name), numbers(found), tree(attribute))
                for name, found, attribute in zip(names, vectors, attributes, strict=True)
            ]

    def _names(self, key: bytes, size: int) -> Iterator[list[bytes]]:
        start = b"-"
        while True:
            try:
                names = items(self._client.execute_command("VRANGE", key, start, "+", size))
            except redis.ResponseError:  # before Redis 8.4
                break
            if names:
                yield names
            if len(names) < size:
                return
            start = b"(" + names[-1]
        held = count(self._client.execute_command("VCARD", key)) or 0
        if held > MOST_ELEMENTS:
            raise DataError(
                f"{printable(text(key))}: has {held:,} elements, expected at most {MOST_ELEMENTS:,} before Redis 8.4, "
                "which gives them by parts"
            )
        names = sorted(items(self._client.execute_command("VRANDMEMBER", key, held))) if held else []
        for first in range(0, len(names), size):
            yield names[first : first + size]

    def _parts(self, keys: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Keys whose values may be read at once; one that is too large is noted and left out."""
        part: list[bytes] = []
        taken = 0
        for key, size in zip(keys, self.each([("MEMORY", "USAGE", key) for key in keys]), strict=True):
            held = size if isinstance(size, int) else UNMEASURED
            if held > LARGEST_VALUE:
                self._note(
                    f"{printable(text(key))}: takes {held:,} bytes, expected at most {LARGEST_VALUE:,}; not read"
                )
                continue
            if part and taken + held > PAGE_BYTES:
                yield part
                part, taken = [], 0
            part.append(key)
            taken += held
        if part:
            yield part
