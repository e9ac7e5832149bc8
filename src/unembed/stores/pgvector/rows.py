"""The statement that reads a column of vectors with its row, and what comes of the fields that it gives.

Everything but the vector is asked for as text, cut by the server: text columns to a length, metadata as JSON.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import sql

from unembed.stores.pgvector.catalog import TABLE, Column
from unembed.stores.pgvector.wire import vectors
from unembed.stores.rows import cut, metadata
from unembed.stores.store import TEXT_BYTES, Rows

FIELD = 4096  # characters of one value of the metadata
ID = 1024  # characters of an id
HASH = 128  # hex digits of a hash
HASH_KINDS = {32: "md5", 64: "sha256"}  # by hex digits
VECTOR, KEY, TEXT, SUM, REST = range(5)  # the fields of a row, and where its metadata begins

Fields = Sequence[bytes | None]


def source(column: Column) -> sql.Composed:
    """What stands after FROM: a table without those that inherit from it, which are tables themselves."""
    only = sql.SQL("ONLY " if column.table.kind == TABLE else "")
    return only + sql.Identifier(column.table.schema, column.table.name)


def select(column: Column, limit: int | None) -> sql.Composed:
    """COPY of all rows with a vector: vector, id, text, hash, metadata."""
    parts = [sql.Identifier(column.name), _key(column), _text(column), _hash(column)]
    parts += [_cut(sql.SQL("to_json({})").format(sql.Identifier(name)), FIELD + 1) for name in column.metadata]
    return sql.SQL("COPY (SELECT {} FROM {} WHERE {} IS NOT NULL{}) TO STDOUT (FORMAT BINARY)").format(
        sql.SQL(", ").join(parts),
        source(column),
        sql.Identifier(column.name),
        sql.SQL("" if limit is None else f" LIMIT {int(limit)}"),
    )


def rows_of(column: Column, fields: Sequence[Fields], dimension: int, start: int) -> Rows:
    """Rows out of what COPY gave. Where a table has no primary key, ids are numbers from `start` on."""
    found = vectors(column.type, [row[VECTOR] or b"" for row in fields], dimension)
    ids = [f"{start + index}" if row[KEY] is None else _decoded(row[KEY]) for index, row in enumerate(fields)]
    texts = [None if row[TEXT] is None else _decoded(row[TEXT]) for row in fields]
    hashes = None if column.hash is None else [_hash_of(row[SUM]) for row in fields]
    return Rows(ids, found.astype(np.float32, copy=False), texts, metadata_of(column, fields), hashes)


def metadata_of(column: Column, fields: Sequence[Fields]) -> list[dict[str, Any]]:
    """What else each row holds, without the columns that are empty in it."""
    names = column.metadata
    return [
        metadata({name: _value(value) for name, value in zip(names, row[REST:], strict=True) if value is not None})
        for row in fields
    ]


def _cut(value: sql.Composable, length: int) -> sql.Composed:
    return sql.SQL("left({}::text, {})").format(value, sql.Literal(length))


def _key(column: Column) -> sql.Composable:
    if not column.table.key or not {*column.table.key} <= {*column.table.types}:
        return sql.SQL("NULL")
    parts = [_cut(sql.Identifier(name), ID) for name in column.table.key]
    return sql.SQL("concat_ws(',', {})").format(sql.SQL(", ").join(parts))


def _text(column: Column) -> sql.Composable:
    return sql.SQL("NULL") if column.text is None else _cut(sql.Identifier(column.text), TEXT_BYTES)


def _hash(column: Column) -> sql.Composable:
    if column.hash is None:
        return sql.SQL("NULL")
    if column.table.types[column.hash] == "bytea":
        return sql.SQL("encode(substr({}, 1, {}), 'hex')").format(sql.Identifier(column.hash), sql.Literal(HASH // 2))
    return _cut(sql.Identifier(column.hash), HASH)


def _decoded(value: bytes | None) -> str:
    """A database without an encoding may hold any bytes."""
    return cut((value or b"")[:TEXT_BYTES].decode("utf-8", "replace"))


def _value(value: bytes) -> Any:
    """A value of the metadata; one that was cut within its JSON is text."""
    text = _decoded(value)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _hash_of(value: bytes | None) -> str | None:
    digits = _decoded(value).strip().lower().rpartition(":")[2]
    kind = HASH_KINDS.get(len(digits))
    return f"{kind}:{digits}" if kind and not digits.strip("0123456789abcdef") else None
