"""The `embeddings.db` of the `llm` tool (https://llm.datasette.io): collections of texts' vectors, each with its model.

It keeps the MD5 of each text even where the text itself is not stored: with it a recovered text is proved.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unembed.stores import traces
from unembed.stores.rows import Faults, Row, batched, chosen, json_object, metadata
from unembed.stores.sqlite_files import Database
from unembed.stores.store import BATCH, Collection, Floats, Rows, Trace

COLUMNS = ("id", "embedding", "content", "content_hash", "metadata")
OF = "FROM embeddings WHERE collection_id = ?"


class Llm:
    """A database of `llm embed`; see `Store`."""

    kind = "llm"

    def __init__(self, location: str) -> None:
        self.location, self.notes = location, list[str]()
        self._database = Database(Path(location), self.notes)
        try:
            needed = {"collections": ["id", "name", "model"], "embeddings": ["collection_id", "id", "embedding"]}
            self._database.need("a database of llm's embeddings", **needed)
            self._columns = [one for one in COLUMNS if one in self._database.columns("embeddings")]
            listed = self._database.scan("collections", ["id", "name", "model"])
            self._found = [(key, str(name), str(model or "")) for _, key, name, model in listed]
        except BaseException:
            self._database.close()
            raise

    def collections(self) -> list[Collection]:
        """See `Store`."""
        common = [*self._database.traces(), *traces.of_store(self._database.path)]
        found = [self._described(key, name, model, common) for key, name, model in self._found]
        self._database.check_unchanged()
        return found

    def _described(self, key: Any, name: str, model: str, common: list[Trace]) -> Collection:
        def count(column: str) -> int:
            there = column in self._database.columns("embeddings")
            return int(self._database.one(f"SELECT count({column}) {OF}", (key,)) or 0) if there else 0

        texts, binaries, hashes = count("content"), count("content_blob"), count("content_hash")
        own: list[Trace] = []
        if texts:
            own.append(traces.text_trace("embeddings.content", texts))
        if binaries:
            own.append(traces.text_trace("embeddings.content_blob", binaries))
        if hashes:
            detail = "Rows have the MD5 of their text, which proves a guess right."
            own.append(Trace("hash", detail, "embeddings.content_hash", hashes))
        own += traces.encoder_traces(model, "collections.model")
        if "metadata" in self._columns:
            sample = [one for (one,) in self._database.read(f"SELECT metadata {OF} LIMIT 1000", (key,))]
            settings = (json_object(one) for one in sample)
            own += traces.secrets(one for each in settings for one in traces.assignments(each, "embeddings.metadata"))
        return Collection(
            name=name,
            rows=int(self._database.one(f"SELECT count(*) {OF}", (key,)) or 0),
            dimension=self._dimension(key),
            encoder=model,
            has_text=texts > 0,
            traces=(*own, *common),
        )

    def _dimension(self, key: Any) -> int | None:
        size = self._database.one(f"SELECT length(embedding) {OF} AND typeof(embedding) = 'blob' LIMIT 1", (key,))
        return size // 4 if isinstance(size, int) and 0 < size <= 1 << 18 else None

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """See `Store`. `Rows.hashes` is there where the database has them."""
        key = chosen({one: key for key, one, _ in self._found}, name, self.location)
        faults = Faults(name)
        try:
            yield from batched(self._rows(key, faults), self._dimension(key) or 1, batch)
        finally:
            faults.tell(self.notes)
            self._database.check_unchanged()

    def _rows(self, key: Any, faults: Faults) -> Iterator[Row]:
        dimension = self._dimension(key)
        for number, *values in self._database.scan("embeddings", self._columns, "+collection_id = ?", (key,)):
            row = dict(zip(self._columns, values, strict=True))
            name = f"row {number}" if row["id"] is None else str(row["id"])
            vector = _vector(row["embedding"])
            if vector is None or len(vector) != dimension:
                faults.add(f"rows without an embedding of {dimension} float32", name)
                vector = None
            text, digest = row.get("content"), row.get("content_hash")
            yield Row(
                name,
                vector,
                text if isinstance(text, str) else None,
                metadata(json_object(row.get("metadata"))),
                f"md5:{digest.hex()}" if isinstance(digest, bytes) and len(digest) == 16 else None,
            )

    def close(self) -> None:
        """See `Store`."""
        self._database.close()


def _vector(data: Any) -> Floats | None:
    return np.frombuffer(data, "<f4") if isinstance(data, bytes) and len(data) % 4 == 0 else None


def open(location: str) -> Llm:  # noqa: A001  (the name of a reader's function)
    """A database of `llm embed`. Raises DataError."""
    return Llm(location)
