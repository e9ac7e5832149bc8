"""A folder of txtai: `config.json`, `embeddings` (FAISS or sqlite-vec), and `documents` (SQLite) or `ids`.

Older folders have their configuration or ids as a pickle: it is not read, and a note says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from unembed.errors import DataError, printable
from unembed.stores import traces
from unembed.stores.local import existing, json_file
from unembed.stores.messagepack import read_list
from unembed.stores.rows import chosen, cut, json_object, metadata, note, pages
from unembed.stores.sqlite_files import Database
from unembed.stores.store import BATCH, Collection, Opener, Rows, Store, Trace

NAME = "embeddings"
READERS = {"faiss": "unembed.stores.faiss", "sqlite": "unembed.stores.sqlite_vec"}
IDS_BYTES = 1 << 26
PARAMETERS = 500  # of one query
Found = dict[int, tuple[str, str | None, dict[str, Any]]]


class Txtai:
    """A folder of txtai; see `Store`."""

    kind = "txtai"

    def __init__(self, location: str) -> None:
        self.location, self.notes, self._folder = location, list[str](), existing(location)
        self._database: Database | None = None
        self._config = self._read_config()
        self._ids = self._read_ids()
        backend = str(self._config.get("backend") or "faiss")
        if backend not in READERS:
            raise DataError(f"{location}: keeps its vectors by {printable(backend)}, expected {' or '.join(READERS)}")
        if not (self._folder / NAME).is_file():
            raise DataError(f"{location}: has no file {NAME}, expected the folder of a txtai index")
        opener: Opener = import_module(READERS[backend]).open
        self._vectors: Store = opener(str(self._folder / NAME))
        try:
            if (self._folder / "documents").is_file():
                self._database = Database(self._folder / "documents", self.notes)
                self._database.need("the documents of txtai", sections=["indexid", "id", "text"])
        except BaseException:
            self.close()
            raise

    def _read_config(self) -> dict[str, Any]:
        path = self._folder / "config.json"
        if path.exists():
            return json_file(path)
        if not (self._folder / "config").exists():
            raise DataError(f"{self.location}: has no config.json, expected the folder of a txtai index")
        self.notes.append("config: is a pickle and not read, so that the encoder is not known")
        return {}

    def _read_ids(self) -> list[str]:
        """Ids by index, where the texts are not stored."""
        path = self._folder / "ids"
        if not path.is_file():
            return []
        try:
            with path.open("rb") as file:
                return read_list(file.read(IDS_BYTES))
        except (OSError, ValueError) as error:
            self.notes.append(f"ids: is not read ({error}), rows are called by their number")
            return []

    def collections(self) -> list[Collection]:
        """See `Store`. There is one, `embeddings`, and maybe one of deleted rows."""
        encoder = self._config.get("path")
        encoder = encoder if isinstance(encoder, str) else ""
        own: list[Trace] = []
        texts = 0
        if self._database is not None:
            texts = int(self._database.one("SELECT count(text) FROM sections") or 0)
            own += self._database.traces()
        if texts:
            own.append(traces.text_trace("documents: sections.text", texts))
        own += traces.encoder_traces(encoder, "config.json")
        own += [*traces.of_settings(self._config, "config.json"), *traces.of_store(self._folder)]
        return [
            replace(one, name=name, encoder=encoder, has_text=texts > 0, traces=tuple(own))
            for name, one in self._named().items()
        ]

    def _named(self) -> dict[str, Collection]:
        """The collections of the vectors' reader, by the names that they have here."""
        found = self._vectors.collections()
        note(self.notes, *self._vectors.notes)
        return {NAME + one.name.removeprefix(found[0].name): one for one in found}

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """See `Store`."""
        inner = chosen(self._named(), name, self.location).name
        for rows in self._vectors.rows(inner, batch):
            yield self._with_texts(rows)
        note(self.notes, *self._vectors.notes)
        if self._database is not None:
            self._database.check_unchanged()

    def _with_texts(self, rows: Rows) -> Rows:
        numbers = [int(one) if one.isdecimal() else -1 for one in rows.ids]
        found = self._documents(numbers)
        each = [found.get(number) for number in numbers]
        return replace(
            rows,
            ids=[own if one is None else one[0] for own, one in zip(rows.ids, each, strict=True)],
            texts=[None if one is None or one[1] is None else cut(one[1]) for one in each],
            metadata=[{} if one is None else one[2] for one in each],
        )

    def _documents(self, numbers: Sequence[int]) -> Found:
        if self._database is None:
            there = range(len(self._ids))
            return {number: (self._ids[number], None, {}) for number in numbers if number in there}
        found: Found = {}
        whole = "data" in self._database.columns("documents")
        joined = "LEFT JOIN documents d ON d.id = s.id" if whole else ""
        for page in pages(numbers, PARAMETERS):
            sql = f"SELECT s.indexid, s.id, s.text, {'d.data' if whole else 'NULL'} FROM sections s {joined}"
            marks = ", ".join("?" * len(page))
            for number, key, text, data in self._database.read(f"{sql} WHERE s.indexid IN ({marks})", page):
                more = {name: value for name, value in json_object(data).items() if name != "text"}
                found[number] = (str(key), text if isinstance(text, str) else None, metadata(more))
        return found

    def close(self) -> None:
        """See `Store`."""
        self._vectors.close()
        if self._database is not None:
            self._database.close()


def open(location: str) -> Txtai:  # noqa: A001  (the name of a reader's function)
    """A folder of txtai. Raises DataError, MissingPackageError where its vectors need FAISS."""
    return Txtai(location)
