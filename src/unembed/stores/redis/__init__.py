"""Vectors in Redis, or what speaks its protocol. Three kinds of collections:

    INDEX:FIELD     a vector field of an index of the search module, in hashes or JSON documents
    PREFIX:FIELD    a field of all hashes whose keys begin with PREFIX: float32 bytes, or a JSON list. Without the
                    module these are looked for among the first keys, and any can be named
    KEY             a vector set, which gives back an approximation unless it was made with NOQUANT

Only commands that read are sent, and from Redis 7.2 on none counts as a use of a key. Keys come by SCAN, in its order.
The password is in the address or in REDISCLI_AUTH. Other servers of a cluster are not read.

    reader.py  rows of hashes, documents and vector sets
    values.py  what is answered, as values
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from unembed.encoders.http_client import safe_url
from unembed.errors import DataError, InputError, UnembedError, extra, printable
from unembed.stores.records import numbers_of, rows_of_pages, traces_of
from unembed.stores.redis.values import NUMBERS, count, items, pairs, text, vector
from unembed.stores.rows import LISTED, note
from unembed.stores.store import BATCH, Collection, Rows, Trace

with extra("stores-redis", "reading Redis"):
    import redis

    from unembed.stores.redis.reader import Reader, Source

PASSWORD = "REDISCLI_AUTH"  # as redis-cli calls it
CONNECT, SILENCE = 10.0, 60.0  # seconds
FIRST_KEYS = 10_000  # that are looked at for hashes and vector sets that no index names
LOOKED_AT = 10  # rows of a collection that tell whether there are texts
SHORTEST = 64  # numbers in a field that may be a vector
SAID = 200  # characters of an error that are quoted
QUANTISERS = {"f32": "float32", "int8": "int8", "bin": "bit"}  # of vector sets


def open(location: str) -> "Redis":  # noqa: A001
    """A database at redis(s)://[USER:PASSWORD@]HOST[:PORT]/NUMBER.

    Raises:
        InputError: it is no such address.
        UnembedError: there is no connection.
    """
    return Redis(location)


class Redis:
    """A database of a Redis server. A `Store`."""

    kind = "redis"

    def __init__(self, location: str) -> None:
        self.location = safe_url(location)
        self.notes: list[str] = []
        self._sources: dict[str, Source] = {}
        try:
            connect: Any = redis.Redis.from_url
            self._client = connect(location, protocol=2, socket_timeout=SILENCE, socket_connect_timeout=CONNECT)
        except (ValueError, TypeError, redis.RedisError):  # whose messages show parts of it
            raise InputError(f"{self.location}: is no address of Redis, expected redis://HOST[:PORT]/NUMBER") from None
        options = self._client.connection_pool.connection_kwargs
        options["password"] = options.get("password") or os.environ.get(PASSWORD) or None
        self._secret = options["password"]
        self._reader = Reader(self._client, self._note)
        try:
            with self._failing():
                self._client.ping()
                with suppress(redis.ResponseError):
                    self._client.execute_command("CLIENT", "NO-TOUCH", "ON")
        except UnembedError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def collections(self) -> list[Collection]:
        """Fields of the search module's indices, then what the first keys show. Raises DataError, UnembedError."""
        with self._failing():
            with suppress(redis.ResponseError):
                if pairs_of_info(self._client.execute_command("INFO", "cluster")).get("cluster_enabled") == "1":
                    self._note("the server is one of a cluster, whose other servers are not read")
            found = [one for name in self._indices() for one in self._index(name)]
            return found + self._first_keys()

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """All rows of a collection, in the order of SCAN or of the names of a vector set. Raises as `Store.rows`."""
        source = self._source(name)
        named = f"{self.location}: {printable(name)}"
        with self._failing():
            yield from rows_of_pages(self._reader.records(source, batch), source.dimension, batch, named, self.notes)

    def _source(self, name: str) -> Source:
        """Where a collection is: a listed one, a vector set, or `PREFIX:FIELD`."""
        if not self._sources:
            self.collections()
        if name in self._sources:
            return self._sources[name]
        with self._failing():
            if self._client.type(name) == b"vectorset":
                return Source("set", (name.encode("utf-8", "replace"),))
        prefix, _, field = name.rpartition(":")
        if not field or ":" not in name:
            known = printable(", ".join([*self._sources][:LISTED])) or "none"
            raise DataError(
                f"{self.location}: no collection {printable(name)!r}, expected PREFIX:FIELD, a vector set, or one of "
                f"{known}"
            )
        return Source("hash", (prefix.encode("utf-8", "replace"),), field)

    def _indices(self) -> list[bytes]:
        """The search module's, none where there is no such module."""
        try:
            return sorted(one for one in items(self._client.execute_command("FT._LIST")) if isinstance(one, bytes))
        except redis.ResponseError:
            return []

    def _index(self, name: bytes) -> Iterator[Collection]:
        info = pairs(self._client.execute_command("FT.INFO", name))
        definition = pairs(info.get("index_definition"))
        kind = text(definition.get("key_type")).lower()
        prefixes = tuple(one for one in items(definition.get("prefixes")) if isinstance(one, bytes))
        for field in map(pairs, items(info.get("attributes"))):
            if text(field.get("type")) != "VECTOR":
                continue
            shown, number = f"{text(name)}:{text(field.get('attribute'))}", text(field.get("data_type"))
            if kind not in ("hash", "json") or (kind == "hash" and number not in NUMBERS):
                self._note(f"{printable(shown)}: {printable(number)} in {printable(kind)} is not read")
                continue
            type_ = NUMBERS.get(number, "<f4")
            source = Source(kind, prefixes, text(field.get("identifier")), type_, count(field.get("dim")))
            metric = text(field.get("distance_metric")).lower()
            about = {"index": text(field.get("algorithm")).lower()}
            yield self._collection(shown, source, count(info.get("num_docs")), number.lower(), metric, about)

    def _first_keys(self) -> list[Collection]:
        """Vector sets, and hashes with something like a vector that no index names, among the first keys."""
        keys, cursor = list[bytes](), None
        while cursor != 0 and len(keys) < FIRST_KEYS:
            cursor, found = self._client.scan(cursor or 0, count=1000)
            keys += found
        if cursor:
            self._note(f"only the first {len(keys):,} keys were looked at for vector sets and hashes without an index")
        types = self._reader.each([("TYPE", key) for key in keys])
        indexed = tuple(prefix for one in self._sources.values() if one.kind == "hash" for prefix in one.prefixes)
        groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for key, kind in zip(keys, types, strict=True):
            if kind == b"hash" and not key.startswith(indexed):
                groups[key[: key.rfind(b":") + 1]].append(key)
        collections = [self._set(key) for key, kind in sorted(zip(keys, types, strict=True)) if kind == b"vectorset"]
        for prefix, members in sorted(groups.items()):
            for field, dimension in sorted(self._vector_fields(members[:LOOKED_AT]).items()):
                source = Source("hash", (prefix,), field, dimension=dimension)
                rows = None if cursor else len(members)
                collections.append(self._collection(f"{text(prefix)}:{field}", source, rows, "float32", "", {}))
        return collections

    def _vector_fields(self, keys: Sequence[bytes]) -> dict[str, int]:
        """Fields that hold a vector of one length in all of some hashes, with that length."""
        lengths: defaultdict[bytes, list[int]] = defaultdict(list)
        hashes = self._reader.hashes(keys)
        for fields in hashes:
            for name, value in fields.items():
                found = numbers_of(vector(value, "<f4"))
                usual = (
                    found is not None
                    and len(found) >= SHORTEST
                    and 1e-3 < float(np.linalg.norm(found.astype(np.float64))) < 1e4
                )
                lengths[name].append(len(found) if found is not None and usual else 0)
        return {
            text(name): found[0]
            for name, found in lengths.items()
            if len(found) == len(hashes) and found[0] and len({*found}) == 1
        }

    def _set(self, key: bytes) -> Collection:
        info = pairs(self._client.execute_command("VINFO", key))
        kind, reduced = text(info.get("quant-type")), bool(count(info.get("projection-input-dim")))
        source = Source("set", (key,), dimension=count(info.get("vector-dim")))
        about = {"quantization": kind, "reduced": reduced}
        number = QUANTISERS.get(kind, kind)
        return self._collection(
            text(key), source, count(info.get("size")), number, "cosine", about, kind != "f32" or reduced
        )

    def _collection(
        self, name: str, source: Source, rows: int | None, number: str, metric: str, about: dict[str, Any],
        lossy: bool = False,
    ) -> Collection:  # fmt: skip
        self._sources[name] = source
        sample = next(self._reader.records(source, LOOKED_AT), [])
        texts, encoder, traces = traces_of([one.payload for one in sample], rows, name)
        if self._secret is None:
            traces.append(Trace("readable", "The server answers without a password.", self.location))
        about |= {"kind": source.kind, "prefixes": [text(one) for one in source.prefixes], "field": source.field}
        return Collection(name, rows, source.dimension, number, metric, encoder, texts, lossy, tuple(traces), about)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Errors of Redis as ours, in one line, without the password."""
        try:
            yield
        except redis.RedisError as error:
            said = str(error).replace(self._secret, "***") if self._secret else str(error)
            message = f"{self.location}: {type(error).__name__} ({printable(said)[:SAID]})"
            raise UnembedError(message) from error
        except UnembedError:
            raise
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # of the client, which trusts the server
            raise UnembedError(f"{self.location}: does not answer as Redis does ({type(error).__name__})") from error

    def _note(self, line: str) -> None:
        note(self.notes, line)


def pairs_of_info(value: Any) -> dict[str, str]:
    """What INFO says: lines, or already an object."""
    if isinstance(value, dict):
        return {str(name): str(one) for name, one in value.items()}
    return dict(line.split(":", 1) for line in text(value).splitlines() if ":" in line)
