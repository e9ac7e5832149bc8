"""Which columns of a table hold vectors, texts and ids, and their values as rows of a store.

A column is told by its name, else by its values: vectors are lists of at least 64 floats that are all of one length.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unembed.errors import DataError, EmbeddingError, printable
from unembed.stores import names
from unembed.stores.rows import WIDEST, Faults, Row, batched, metadata
from unembed.stores.store import Collection, Rows, Trace
from unembed.stores.traces import encoder_traces, text_trace
from unembed.tables import Batch
from unembed.tables.documents import ITSELF, VECTORS
from unembed.tables.table import LONGEST_NAME
from unembed.tables.values import listed_values, plain

SAMPLE = 32  # rows that columns are told by
SHORTEST = 64  # numbers of a vector whose column's name does not tell what it is
WRITTEN = 24  # characters that a number of a vector takes at most, where it is written out
COLUMNS = 256  # of a table that are looked at, and those whose names tell
KEPT = 32  # columns whose values are a row's metadata
KNOWN_TEXTS = (*names.TEXTS, *names.SHORT_TEXTS)

VECTOR_WORDS = re.compile(r"(?:^|[\W_])(?:embed|embeds|embeddings?|emb|vectors?|vec|dense)(?:$|[\W_])", re.IGNORECASE)


@dataclass(frozen=True)
class Vector:
    """A column of vectors. number: how its numbers are kept, `text` where they are written out."""

    column: str
    dimension: int
    number: str


@dataclass(frozen=True)
class Columns:
    """What the columns of a table hold.

    Attributes:
        vectors: columns of vectors: those whose names say so, or else all that look like vectors.
        named: whether it was the names that said so.
        id, text: None where there is none.
        metadata: other columns of single values.
        encoder: a model that a column names in every row.
    """

    vectors: tuple[Vector, ...] = ()
    named: bool = True
    id: str | None = None
    text: str | None = None
    metadata: tuple[str, ...] = ()
    encoder: str = ""

    def needed(self, vector: Vector, present: Iterable[str] | None = None) -> list[str]:
        """The columns to read for `vector`, in a fixed order; only those of `present` where it is given."""
        wanted = [vector.column, *(one for one in (self.id, self.text) if one), *self.metadata]
        there = None if present is None else set(present)
        return [one for one in wanted if there is None or one in there]

    def vector(self, column: str) -> Vector:
        """The column of vectors of that name."""
        return next(one for one in self.vectors if one.column == column)


def looked_at(columns: Sequence[str]) -> list[str]:
    """The columns that are worth a look: the first ones, and those whose names tell."""
    known = {*KNOWN_TEXTS, *names.IDS, *names.ENCODERS, *names.MODELS}
    short = [one for one in columns if len(one) <= LONGEST_NAME]
    return [one for place, one in enumerate(short) if place < COLUMNS or is_named(one) or names.last(one) in known]


def is_named(column: str) -> bool:
    """Whether a column is called as vectors are."""
    return column == ITSELF or names.last(column) in VECTORS or bool(VECTOR_WORDS.search(names.last(column)))


def find(sample: Mapping[str, Any]) -> Columns:
    """What the columns hold, by their names and first values.

    Args:
        sample: of each column some values, as `tables.Batch` has them.
    """
    several = {name: vector for name, values in sample.items() if (vector := _vector(name, values)) is not None}
    named = {name: vector for name, vector in several.items() if is_named(name)}
    vectors = named or several
    single = {name: _singles(name, values) for name, values in sample.items() if name not in several}
    scalars = {name: values for name, values in single.items() if values is not None}
    strings = {name: [v for v in values if isinstance(v, str)] for name, values in scalars.items()}
    strings = {name: found for name, found in strings.items() if found or _is_text(sample[name])}
    text = names.first(KNOWN_TEXTS, strings) or names.prose(strings)
    identity = names.first(names.IDS, [name for name in scalars if name != text])
    encoder = names.encoder(scalars)
    rest = tuple(name for name in scalars if name not in (text, identity))
    return Columns(tuple(vectors.values()), bool(named), identity, text, rest[:KEPT], encoder)


def collection(
    name: str, vector: Vector, columns: Columns, rows: int | None, more: Iterable[Trace] = (), **known: Any
) -> Collection:
    """A collection of one column of vectors, with what its table gives away. `known`: further attributes of it."""
    encoder = known.pop("encoder", "") or columns.encoder
    about = {"column": vector.column, "text": columns.text, "id": columns.id, **known.pop("about", {})}
    found = [] if columns.text is None else [text_trace(columns.text, rows)]
    found += encoder_traces(encoder, name)
    return Collection(
        name, rows, vector.dimension, vector.number, encoder=encoder, has_text=columns.text is not None,
        traces=(*found, *more), about={key: value for key, value in about.items() if value}, **known,
    )  # fmt: skip


def rows(
    batches: Iterable[Batch], columns: Columns, vector: Vector, where: str, notes: list[str], size: int
) -> Iterator[Rows]:
    """Batches of a table as rows of a store, at most `size` at once.

    A value that is no vector of the dimension becomes a row of NaN; how many there were is noted at the end.

    Raises:
        DataError: a column cannot be read at all; `where` is what the message calls the table.
    """
    faults = Faults(where)
    try:
        for batch in batches:
            yield from batched(_rows(batch, columns, vector, where, faults), vector.dimension, size)
    finally:
        faults.tell(notes)


def _rows(batch: Batch, columns: Columns, vector: Vector, where: str, faults: Faults) -> Iterator[Row]:
    vectors, why = _floats(batch, vector, where)
    for number, reason in why.items():
        faults.add(f"rows without a vector of {vector.dimension} numbers", f"row {batch.first + number} {reason}")
    ids, texts = (_values(batch, column, where) for column in (columns.id, columns.text))
    rest = {column: _values(batch, column, where) for column in columns.metadata if column in batch.columns}
    for n, (value, text) in enumerate(zip(ids, texts, strict=True)):
        held = {column: values[n] for column, values in rest.items() if values[n] is not None}
        name = _name(value, batch.first + n)
        yield Row(name, vectors[n], text if isinstance(text, str) else None, metadata(held))


def _floats(batch: Batch, vector: Vector, where: str) -> tuple[Any, dict[int, str]]:
    """Vectors (n, d) float32, and which rows are none, and why."""
    from unembed.encoders.embedding_files import numbers  # loads torch, which a child process need not

    try:
        found, unread = numbers(batch, vector.column, where, vector.dimension)
    except EmbeddingError as error:
        raise DataError(str(error)) from error
    if found.shape[1] != vector.dimension:
        unread = dict.fromkeys(range(len(batch)), f"has {found.shape[1]} numbers, expected {vector.dimension}")
        return np.full((len(batch), vector.dimension), np.nan, np.float32), unread
    if found.dtype.kind not in "fiub":
        raise DataError(f"{printable(where)}: values are of type {found.dtype}, expected real numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(found, dtype=np.float32), {n: printable(why) for n, why in unread.items()}


def _values(batch: Batch, column: str | None, where: str) -> Sequence[Any]:
    if column is None or column not in batch.columns:
        return [None] * len(batch)
    return listed_values(batch.columns[column], f"{printable(where)}: column {printable(column)!r}")


def _name(value: Any, number: int) -> str:
    """A row's id; its number where it has none."""
    return str(number if value is None else value if type(value) is int else plain(value))


def _vector(name: str, values: Any) -> Vector | None:
    """A column as one of vectors; None where its values are none."""
    named = is_named(name)
    width, number = _shape(values, named)
    if not (2 if named else SHORTEST) <= width <= WIDEST:
        return None
    floats = number == "text" or number.startswith("float")
    return Vector(name, width, number) if floats or named else None  # integers are of tokens, more often than not


def _shape(values: Any, named: bool) -> tuple[int, str]:
    """How many numbers each value has, and how they are kept; 0 where they are no vectors of one length."""
    if isinstance(values, np.ndarray):
        axes = values.shape if values.ndim != 3 or values.shape[1] != 1 else (len(values), values.shape[2])
        return (axes[1], values.dtype.name) if len(axes) == 2 and values.dtype.kind in "fiu" else (0, "")
    kind = _list_type(values)
    if kind is not None and (width := getattr(kind, "list_size", -1)) >= 0:
        return width, _number(kind.value_type)
    found, strange = _arrays(values[:SAMPLE])
    if not found:
        return 0, ""
    lengths = Counter(map(len, found))
    width, often = lengths.most_common(1)[0]
    if named and 2 * often <= len(found) + strange:  # a few rows that are damaged may be among the first
        return 0, ""
    if not named and (strange or len(lengths) > 1 or not all(one.dtype.kind == "f" and _sane(one) for one in found)):
        return 0, ""
    written = found[0].dtype.itemsize == 8  # as Python reads numbers; bytes have a format of their own
    number = _number(kind.value_type) if kind is not None else "text" if written else found[0].dtype.name
    return width, number


def _arrays(values: Any) -> tuple[list[Any], int]:
    """Values as arrays, without those that are missing, and how many are no rows of numbers."""
    from unembed.encoders.embedding_files import number_row

    found, strange = [], 0
    try:
        listed = listed_values(values, "")
    except DataError:
        return [], 0
    for value in listed:
        if isinstance(value, str | bytes) and len(value) > WRITTEN * WIDEST:
            strange += 1
            continue
        try:
            found += [] if value is None else [number_row(value, "")]
        except (DataError, RecursionError):
            strange += 1
    return found, strange


def _sane(array: Any) -> bool:
    """Whether numbers are such as embeddings have; bytes of something else seldom are."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array).all() and np.abs(array).max() < 1e4)


def _list_type(values: Any) -> Any:
    """The Arrow type of a column of lists of numbers."""
    kind = getattr(values, "type", None)
    kind = getattr(kind, "storage_type", kind)
    inner = getattr(kind, "value_type", None)
    return kind if inner is not None and _number(inner) else None


def _is_text(values: Any) -> bool:
    return str(getattr(values, "type", "")) in ("string", "large_string", "string_view")


def _number(kind: Any) -> str:
    """The name of an Arrow type of numbers as NumPy has it, "" of another type."""
    name = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return name if re.fullmatch(r"u?int\d+|float\d+", name) else ""


def _singles(name: str, values: Any) -> list[Any] | None:
    """The values of a column of single values; None where it has lists, objects or bytes, or cannot be read."""
    try:
        found = list(listed_values(values[:SAMPLE], name))
    except (DataError, TypeError, ValueError):
        return None
    return None if any(isinstance(one, list | tuple | dict | bytes | np.ndarray) for one in found) else found
