"""Which columns of a PostgreSQL database hold vectors, and what the catalog says of their tables."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unembed.stores.names import SHORT_TEXTS, TEXTS, first

HASH_COLUMN = re.compile(r"(?i)(^|_)(md5|sha1|sha256|hash|digest|checksum|fingerprint)(_|$)")
TEXT_TYPES = ("text", "varchar", "bpchar", "citext")
HASH_TYPES = (*TEXT_TYPES, "bytea")
UNSHOWN_TYPES = ("vector", "halfvec", "sparsevec", "tsvector", "bytea")  # large, and no metadata to a person
BITS = 64  # from which a column of type bit may be a vector
METRICS = {"cosine": "cosine", "l2": "l2", "ip": "ip", "l1": "l1", "hamming": "hamming", "jaccard": "jaccard"}
TABLE, PARTITIONED, VIEW, FOREIGN = "r", "p", "v", "f"

# Domains stand for the type below them.
COLUMNS = """
    SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text, a.attname, a.attnum::int4,
           coalesce(b.typname, t.typname), CASE WHEN b.oid IS NULL THEN a.atttypmod ELSE t.typtypmod END,
           has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT'),
           has_table_privilege('public', c.oid, 'SELECT'), row_security_active(c.oid)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd'
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'v', 'f') AND NOT c.relispartition
          AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND c.oid IN (SELECT attrelid FROM pg_catalog.pg_attribute o JOIN pg_catalog.pg_type y ON y.oid = o.atttypid
                        LEFT JOIN pg_catalog.pg_type z ON z.oid = y.typbasetype AND y.typtype = 'd'
                        WHERE coalesce(z.typname, y.typname) IN ('vector', 'halfvec', 'sparsevec', 'bit'))
    ORDER BY n.nspname, c.relname, a.attnum"""
KEYS = """
    SELECT i.indrelid::int8, a.attname FROM pg_catalog.pg_index i, unnest(i.indkey) WITH ORDINALITY k(number, place)
    JOIN pg_catalog.pg_attribute a ON a.attnum = k.number
    WHERE a.attrelid = i.indrelid AND i.indisprimary AND i.indrelid = ANY(%s) ORDER BY i.indrelid, k.place"""
INDEXES = """
    SELECT i.indrelid::int8, i.indkey[0]::int4, m.amname, o.opcname, pg_get_indexdef(i.indexrelid)
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_am m ON m.oid = c.relam JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
    WHERE i.indrelid = ANY(%s) AND m.amname NOT IN ('btree', 'gin', 'brin', 'hash') ORDER BY i.indexrelid"""
# Of a table, or of all partitions of one: rows as of the last ANALYZE, and dead ones.
ESTIMATES = """
    SELECT r.oid::int8, sum(greatest(c.reltuples, 0))::int8, bool_and(c.reltuples >= 0), count(*)::int8,
           sum(s.n_dead_tup)::int8
    FROM unnest(%s::oid[]) r(oid)
    JOIN LATERAL (SELECT r.oid AS relid WHERE NOT EXISTS (SELECT FROM pg_partition_tree(r.oid) WHERE NOT isleaf)
                  UNION SELECT p.relid::oid FROM pg_partition_tree(r.oid) p WHERE p.isleaf) l ON true
    JOIN pg_catalog.pg_class c ON c.oid = l.relid
    LEFT JOIN pg_catalog.pg_stat_user_tables s ON s.relid = l.relid GROUP BY r.oid"""


@dataclass
class Table:
    """A table, view or materialised view with a vector in it.

    Attributes:
        oid, schema, name, kind: of pg_class.
        types: of its columns by name, in their order, readable ones only.
        key: columns of the primary key.
        public: whether every role may read it.
        hidden: whether row-level security may hide rows from this role.
        estimate: rows as of the last ANALYZE, None where there was none.
        partitions: how many, 0 where it is not partitioned.
        dead: rows that were deleted or replaced and not vacuumed away.
    """

    oid: int
    schema: str
    name: str
    kind: str
    types: dict[str, str] = field(default_factory=dict)
    key: list[str] = field(default_factory=list)
    public: bool = False
    hidden: bool = False
    estimate: int | None = None
    partitions: int = 0
    dead: int = 0

    @property
    def shown(self) -> str:
        """`[schema.]table`; the schema is left out where it is `public`."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass
class Column:
    """A column that holds vectors.

    Attributes:
        type: `vector`, `halfvec`, `sparsevec` or `bit`.
        dimension: that the type fixes, None where it leaves it open.
        metric: of its first index, "" where there is none.
        indexes: their access methods.
        readable: whether this role may read it.
    """

    table: Table
    name: str
    type: str
    dimension: int | None
    number: int
    readable: bool
    metric: str = ""
    indexes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The collection's name."""
        return f"{self.table.shown}.{self.name}"

    @property
    def text(self) -> str | None:
        """The column that the vector is most likely made from: `title_embedding` from `title`, or a usual name."""
        own = re.sub(r"_?(embeddings?|vectors?|vec|emb)(_.*)?$", "", self.name.lower())
        types = self.table.types.items()
        names = [name for name, kind in types if kind in TEXT_TYPES and name not in self.table.key]
        return first((own, *TEXTS, *SHORT_TEXTS), names)

    @property
    def hash(self) -> str | None:
        """A column that by its name holds hashes, of a type that can."""
        found = (name for name, kind in self.table.types.items() if HASH_COLUMN.search(name) and kind in HASH_TYPES)
        return next(found, None)

    @property
    def metadata(self) -> list[str]:
        """All other columns that a person would want to see."""
        apart = {self.name, self.text, self.hash, *self.table.key}
        return [name for name, kind in self.table.types.items() if name not in apart and kind not in UNSHOWN_TYPES]


def read(query: Any) -> list[Column]:
    """All columns that hold vectors, in the order of schemas, tables and columns.

    Args:
        query: takes SQL and its parameters, gives rows.
    """
    tables: dict[int, Table] = {}
    columns: list[Column] = []
    for oid, schema, name, kind, column, number, type_, modifier, readable, public, hidden in query(COLUMNS, ()):
        table = tables.setdefault(oid, Table(oid, schema, name, kind, public=public, hidden=hidden))
        if readable:
            table.types[column] = type_
        if type_ in UNSHOWN_TYPES[:3] or (type_ == "bit" and modifier >= BITS):
            columns.append(Column(table, column, type_, modifier if modifier > 0 else None, number, readable))
    kept = list({column.table.oid for column in columns})
    for oid, name in query(KEYS, (kept,)):
        tables[oid].key.append(name)
    for oid, rows, analysed, parts, dead in query(ESTIMATES, (kept,)):
        tables[oid].estimate = int(rows) if analysed else None
        tables[oid].partitions = parts if tables[oid].kind == PARTITIONED else 0
        tables[oid].dead = int(dead or 0)
    _add_indexes(columns, query(INDEXES, (kept,)))
    return columns


def _add_indexes(columns: Sequence[Column], indexes: Sequence[tuple[int, int, str, str, str]]) -> None:
    """An index on an expression, such as a cast to a fixed dimension, is known by the column's name in it."""
    for oid, number, method, operators, definition in indexes:
        for column in columns:
            named = number == 0 and re.search(rf"\b{re.escape(column.name)}\b", definition.partition(" USING ")[2])
            if column.table.oid == oid and (number == column.number or named):
                column.indexes.append(method)
                found = next((METRICS[word] for word in operators.split("_") if word in METRICS), "")
                column.metric = column.metric or found
