"""What a store is: collections of rows, each an id with a vector and maybe its text. Which reader reads which URI.

A URI is `KIND:LOCATION#COLLECTION`; `#COLLECTION` chooses one of several. A path alone will do where the files tell
their kind. Readers are functions `open(location)` that give a `Store`: this package's are listed in `OWN`, and other
packages add theirs as entry points of the group `unembed.stores`, whose name is KIND.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unembed.errors import DataError, InputError, printable

GROUP = "unembed.stores"
BATCH = 1024  # rows that are read at once
TEXT_BYTES = 1 << 20  # of a row's text, which is cut there

# This package's readers by their kinds, each imported when a store of its kind is opened.
OWN = {
    "chroma": "unembed.stores.chroma:open",
    "qdrant": "unembed.stores.qdrant:open",
    "sqlite-vec": "unembed.stores.sqlite_vec:open",
    "llm": "unembed.stores.llm:open",
    "txtai": "unembed.stores.txtai:open",
    "files": "unembed.stores.files:open",
    "lancedb": "unembed.stores.lancedb:open",
    "faiss": "unembed.stores.faiss:open",
    "milvus": "unembed.stores.milvus:open",
    "duckdb": "unembed.stores.duckdb:open",
    "datasets": "unembed.stores.datasets:open",
    "pgvector": "unembed.stores.pgvector:open",
    "elasticsearch": "unembed.stores.elasticsearch:open",
    "opensearch": "unembed.stores.elasticsearch:open",
    "weaviate": "unembed.stores.weaviate:open",
    "redis": "unembed.stores.redis:open",
    "pinecone": "unembed.stores.pinecone:open",
}

Floats = NDArray[np.float32]
Opener = Callable[[str], "Store"]


@dataclass(frozen=True)
class Trace:
    """Something that a store gives away without any inversion.

    kind: `text` in clear, `encoder` named, `endpoint`, `secret`, `hash` of texts, `deleted` rows still there, `version`
    (an earlier state), `copy` (a snapshot or backup beside it), `queue` (of changes, in the store itself), `readable`
    (by every user of the machine).
    detail: one sentence, without the secret itself. count: rows that it is about, where that is known. where: file,
    table or column.
    """

    kind: str
    detail: str
    where: str = ""
    count: int | None = None


@dataclass(frozen=True)
class Collection:
    """Vectors of one dimension, as a store keeps them together.

    Attributes:
        name: after `#` in a URI.
        rows: how many, None where only reading them all would tell.
        dimension: None where only reading tells.
        number: how numbers are kept: `float32`, `float16`, `int8`, `bit`, or an index' own, such as `PQ16x8`.
        metric: the distance that the store is set to, "" where it says none.
        encoder: what the store calls the encoder that made the vectors, "" where it does not say.
        has_text: whether rows have their text beside them.
        lossy: whether what is read is an approximation of what was stored, such as of a product quantiser.
        traces: what is known of it without reading its rows.
        about: what else `unembed stores` shows, JSON-ready.
    """

    name: str
    rows: int | None = None
    dimension: int | None = None
    number: str = "float32"
    metric: str = ""
    encoder: str = ""
    has_text: bool = False
    lossy: bool = False
    traces: tuple[Trace, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows of a collection that follow each other.

    Attributes:
        ids: as the store has them, as strings.
        vectors: (n, d) float32, as they were stored, not normalised; a row that cannot be read is NaN.
        texts: None where there is none, or an empty one.
        metadata: what else a row holds, JSON-ready, without the text.
        hashes: of the texts, as `md5:...` or `sha256:...` in hex, where the store keeps them.
    """

    ids: list[str]
    vectors: Floats
    texts: list[str | None]
    metadata: list[dict[str, Any]]
    hashes: list[str | None] | None = None

    def __post_init__(self) -> None:
        others: list[list[Any]] = [self.texts, self.metadata, self.ids if self.hashes is None else self.hashes]
        assert self.vectors.ndim == 2
        assert self.vectors.dtype == np.float32
        assert all(len(one) == len(self.vectors) for one in [self.ids, *others])

    def __len__(self) -> int:
        return len(self.ids)


class Store(Protocol):
    """A store that is read, and never written to.

    Attributes:
        kind: such as `chroma`.
        location: what was opened, without passwords.
        notes: what could not be read and why, one line each; grows while rows are read.
    """

    kind: str
    location: str
    notes: list[str]

    def collections(self) -> list[Collection]:
        """All that hold vectors, in the order of the store. Raises DataError, UnembedError."""
        ...

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        """All rows of a collection, always in the same order, `batch` at most at once, in bounded memory.

        Raises:
            DataError: there is no such collection, or it cannot be read as it claims.
            UnembedError: a server does not answer.
        """
        ...

    def close(self) -> None:
        """Let go of files, connections and temporary copies."""
        ...


@dataclass(frozen=True)
class Uri:
    """`KIND:LOCATION#COLLECTION`; kind and collection are empty where they are not said."""

    kind: str
    location: str
    collection: str


def parse(uri: str) -> Uri:
    """The parts of a URI. A path wins over a kind: a file called `chroma:x` is one."""
    location, mark, collection = uri.rpartition("#")
    if not mark or os.path.exists(uri):
        location, collection = uri, ""
    kind, colon, rest = location.partition(":")
    if colon and kind in readers() and not rest.startswith("//") and not os.path.exists(location):
        return Uri(kind, rest, collection)
    return Uri("", location, collection)  # redis://HOST is an address


@cache
def readers() -> dict[str, EntryPoint]:
    """All readers by their kinds, this package's first: no other package takes the place of one of them."""
    found = {kind: EntryPoint(kind, value, GROUP) for kind, value in OWN.items()}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point)
    return found


def open_store(uri: str) -> tuple[Store, str]:
    """The store of a URI, and the collection that the URI chooses ("" for all).

    Raises:
        InputError: nothing reads such a URI.
        DataError: it is not what it is said to be.
        MissingPackageError: its reader needs a package that is not installed.
    """
    parts = parse(uri)
    if not parts.location.strip():
        raise InputError("the store is named by nothing, expected a path or KIND:LOCATION")
    opener: Opener = readers()[parts.kind or detect(parts.location)].load()
    return opener(parts.location), parts.collection


# What tells a kind by its files: of a folder, files or folders in it, all that "+" joins; of a file, its name.
FOLDERS = {
    "chroma.sqlite3": "chroma", "*/data_level0.bin": "chroma", "meta.json+collection": "qdrant",
    "config*+embeddings": "txtai", "*.lance": "lancedb", "collections/*/schema.json": "milvus",
    "*.faiss": "faiss", "dataset_info.json": "datasets", "dataset_dict.json": "datasets",
}  # fmt: skip
ENDINGS = {".faiss": "faiss", ".index": "faiss", ".duckdb": "duckdb", ".lance": "lancedb"}
DATABASES = (".db", ".sqlite", ".sqlite3", ".duckdb")
SQLITE_HEAD, DUCKDB_HEAD = b"SQLite format 3\0", b"DUCK"


def detect(location: str) -> str:
    """The kind of store that lies at a path. Raises InputError: nothing is there."""
    path = Path(location)
    if not path.exists():
        scheme = re.match(r"(postgres(?:ql)?|rediss?)://", location)
        if scheme:
            return "pgvector" if scheme[1].startswith("postgres") else "redis"
        raise InputError(
            f"{printable(location)}: no such file or folder, and no kind of store before a colon (as in "
            f"chroma:FOLDER); kinds are {', '.join(readers())}"
        )
    if path.is_dir():
        if (found := _kind_of_folder(path)) == "files" and (inner := _stores_in(path)):
            raise InputError(f"{printable(location)}: holds {printable(', '.join(inner))}, expected the path of one")
        return found
    if path.suffix.lower() in ENDINGS:
        return ENDINGS[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DataError(f"{printable(location)}: cannot be read ({error.strerror})") from error
    if head == SQLITE_HEAD:
        from unembed.stores.sqlite_files import kind_of

        return kind_of(path)  # llm, sqlite-vec or chroma by its tables
    return "duckdb" if head[8:12] == DUCKDB_HEAD else "files"


def _kind_of_folder(path: Path) -> str:
    marks = ((kind, mark.split("+")) for mark, kind in FOLDERS.items())
    return next((kind for kind, names in marks if all(any(path.glob(name)) for name in names)), "files")


def _stores_in(path: Path) -> list[str]:
    """Names of databases and stores that lie in a folder, which is none itself; a few."""
    inner = sorted(islice(path.iterdir(), 1000))
    found = [
        one for one in inner if one.suffix.lower() in DATABASES or (one.is_dir() and _kind_of_folder(one) != "files")
    ]
    return [one.name for one in found[:5]]
