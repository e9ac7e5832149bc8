"""Chroma's folder (versions 0.4 to 1.5), or its `chroma.sqlite3`: collections, and what is left of deleted rows.

SQLite holds names, texts, metadata and a queue; a folder for each collection holds its index. Deleted rows stay in the
file of the index, so that they are a collection `NAME (deleted)`. So does the whole index of a collection that was
deleted, whose name is lost: `FOLDER (deleted)`. Chroma's own client migrates a store when it opens it.

    catalog.py  its collections, and what its database says of them
    rows.py     rows, and deleted ones that are still there
    vectors.py  where their vectors are: in the index or in the queue
    hnsw.py     the files of an index
"""

from collections.abc import Iterator

from unembed.errors import DataError
from unembed.stores import traces
from unembed.stores.chroma.catalog import FOLDER, NEEDED, Part, lost_parts, parts
from unembed.stores.chroma.rows import DOCUMENT, Rest, deleted_rows, live_rows, rest_of
from unembed.stores.chroma.vectors import TOPIC, Vectors
from unembed.stores.local import existing
from unembed.stores.rows import Faults, batched, note, unknown
from unembed.stores.sqlite_files import Database, TooLargeError
from unembed.stores.store import BATCH, Collection, Rows, Trace

FILE = "chroma.sqlite3"
SAMPLE = (
    "SELECT m.key, m.string_value FROM embeddings e JOIN embedding_metadata m ON m.id = e.id "
    "WHERE e.segment_id = ? AND m.key <> ? AND m.string_value IS NOT NULL LIMIT 1000"
)
TEXTS = "SELECT count(*) FROM embeddings e JOIN embedding_metadata m ON m.id = e.id AND m.key = ?"


class Chroma:
    """A Chroma store; see `Store`."""

    kind = "chroma"

    def __init__(self, location: str) -> None:
        path = existing(location)
        self.folder = path if path.is_dir() else path.parent
        self.location, self.notes = location, list[str]()
        self._database: Database | None = None
        self._loaded: tuple[Part, Vectors, Rest] | None = None
        heads = sorted(self.folder.glob("*/header.bin"))
        folders = [one.parent.name for one in heads if FOLDER.fullmatch(one.parent.name)]
        file = self.folder / FILE if path.is_dir() else path
        if file.exists():
            try:
                self._database = Database(file, self.notes)
                self._database.need("a Chroma store", **NEEDED)
                self._parts = list(parts(self._database))
            except BaseException:
                self.close()
                raise
        elif folders:
            self._parts = []
            self.notes.append(f"{FILE} is not there: names, texts and what the indexes had not taken yet are lost")
        else:
            raise DataError(f"{path}: no {FILE} and no folder of an index, expected a Chroma store")
        self._parts += lost_parts(self._database, folders)

    def _load(self, part: Part) -> tuple[Vectors, Rest]:
        """Of one collection at a time, since it takes about 300 bytes a row."""
        if self._loaded is None or self._loaded[0] != part:
            vectors = Vectors(self.folder / part.index, self._database, part.id, part.index, part.metric)
            self._loaded = part, vectors, rest_of(self._database, part.texts, part.id and TOPIC + part.id, vectors)
            note(self.notes, *vectors.notes)
        return self._loaded[1:]

    def collections(self) -> list[Collection]:
        """Those in use in the order of SQLite's file, each followed by its deleted rows; then deleted ones."""
        common = [*traces.of_store(self.folder), *self._forgotten()]
        found: list[Collection] = []
        for part in self._parts:
            vectors, rest = self._load(part)
            if part.id:
                found.append(self._live(part, vectors, rest, common))
            if rest.count:
                found.append(self._left(part, vectors, rest, [] if part.id else common))
            self._check(vectors)
        return found

    def _forgotten(self) -> list[Trace]:
        """Of SQLite's file as a whole: rows of deleted collections, as versions before 1.0 leave them."""
        if self._database is None:
            return []
        lost = self._database.one("SELECT count(*) FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments)")
        detail = "Rows of deleted collections still have their ids, texts and metadata."
        return [*_counted("deleted", detail, "embedding_metadata", lost), *self._database.traces()]

    def _live(self, part: Part, vectors: Vectors, rest: Rest, common: list[Trace]) -> Collection:
        assert self._database is not None
        count = self._database.one
        rows = count("SELECT count(*) FROM embeddings WHERE segment_id = ?", (part.texts,))
        texts = count(f"{TEXTS} WHERE segment_id = ?", (DOCUMENT, part.texts))
        queued = count(
            "SELECT count(*) FROM embeddings_queue WHERE topic = ? AND encoding IS NOT NULL", (TOPIC + part.id,)
        )
        own = [
            *_counted("text", "Rows have their text in clear.", "embedding_metadata", texts),
            *_counted("queue", "Vectors, with their texts, are in the queue too.", "embeddings_queue", queued),
            *traces.encoder_traces(part.encoder, "collections"),
            *traces.of_settings(part.settings, "collections"),
            *traces.secrets(self._sample(part)),
            *_memory(part, vectors),
        ]
        if rest.count and vectors.known:
            own.append(Trace("deleted", "Deleted rows still have their vectors.", part.index, rest.count))
        return Collection(
            name=part.name,
            rows=rows + len(rest.pending),
            dimension=part.dimension or vectors.dimension,
            metric=part.metric,
            encoder=part.encoder,
            has_text=texts > 0,
            traces=(*own, *common),
            about={"index": part.index} | ({"embedding function": part.function} if part.function else {}),
        )

    def _sample(self, part: Part) -> list[tuple[str, str]]:
        """Texts of the metadata of some rows, which are looked at for secrets."""
        assert self._database is not None
        try:
            return [
                ("embedding_metadata", f"{key}={str(value)[: traces.TEXT]}")
                for key, value in self._database.read(SAMPLE, (part.texts, DOCUMENT))
            ]
        except TooLargeError:
            return []

    def _left(self, part: Part, vectors: Vectors, rest: Rest, common: list[Trace]) -> Collection:
        """What is in the files beside the rows of a collection, or of none."""
        own = list(common)
        if not part.id:
            own += _memory(part, vectors)
        if not part.id and self._database is not None:
            detail = "The index of a deleted collection is still there."
            own.append(Trace("deleted", detail, part.index, rest.count))
        return Collection(
            name=self._name_of_rest(part, vectors),
            rows=rest.count,
            dimension=part.dimension or vectors.dimension,
            metric=part.metric,
            encoder=part.encoder,
            has_text=bool(rest.dropped),
            traces=tuple(own),
            about={"index": part.index},
        )

    @staticmethod
    def _name_of_rest(part: Part, vectors: Vectors) -> str:
        if not part.id:
            return part.name
        return f"{part.name} (deleted)" if vectors.known else f"{part.name} (without ids)"

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """See `Store`. Rows that were deleted are called by their id, or `label N` where that is lost."""
        for part in self._parts:
            if part.id and part.name == name:
                yield from self._rows(part, batch, live=True)
                return
            if name.startswith(part.name) and name == self._name_of_rest(part, self._load(part)[0]):
                yield from self._rows(part, batch, live=False)
                return
        raise unknown((one.name for one in self.collections()), name, self.location)

    def _rows(self, part: Part, batch: int, live: bool) -> Iterator[Rows]:
        vectors, rest = self._load(part)
        faults = Faults(part.name)
        dimension = part.dimension or vectors.dimension or 1
        if live:
            assert self._database is not None
            found = live_rows(self._database, part.texts, vectors, faults, rest)
        else:
            found = deleted_rows(self._database, vectors, rest)
        try:
            yield from batched(found, dimension, batch)
        finally:
            faults.tell(self.notes)
            self._check(vectors)

    def _check(self, vectors: Vectors) -> None:
        if self._database is not None:
            self._database.check_unchanged()
        if vectors.index and vectors.index.changed():
            name = vectors.index.folder.name
            note(self.notes, f"{name}: changed while it was read, what was read may mix two states")

    def close(self) -> None:
        """See `Store`."""
        if self._database is not None:
            self._database.close()


def _counted(kind: str, detail: str, where: str, count: int | None) -> list[Trace]:
    return [Trace(kind, detail, where, count)] if count else []


def _memory(part: Part, vectors: Vectors) -> list[Trace]:
    """What the process that made the index had in the memory that it wrote, in rows that are not used yet."""
    left = vectors.index.leftover() if vectors.index else 0
    detail = f"{left} bytes of text from the memory of the process that wrote the file are in it."
    return [Trace("text", detail, f"{part.index}/data_level0.bin")] if left else []


def open(location: str) -> Chroma:  # noqa: A001  (the name of a reader's function)
    """A Chroma store: a folder, or its `chroma.sqlite3`. Raises DataError."""
    return Chroma(location)
