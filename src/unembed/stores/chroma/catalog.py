"""Which collections a Chroma store has, and what its database says of their metric, encoder and settings."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unembed.stores.names import model
from unembed.stores.rows import WIDEST, json_object
from unembed.stores.sqlite_files import Database

FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # names of indexes
DEFAULTS = ("default_tenant", "default_database")
NEEDED = {
    "collections": ["id", "name"],
    "segments": ["id", "scope", "collection"],
    "embeddings": ["id", "segment_id", "embedding_id"],
    "embedding_metadata": ["id", "key", "string_value", "int_value", "float_value"],
    "embeddings_queue": ["seq_id", "operation", "topic", "id", "vector", "encoding", "metadata"],
}
# Embedding functions of Chroma that stand for one model each.
ENCODERS = {"default": "all-MiniLM-L6-v2", "onnx_mini_lm_l6_v2": "all-MiniLM-L6-v2"}
Values = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A collection.

    Attributes:
        name: with database and tenant before it, where they are not the default ones.
        index: the folder of its index.
        id: "" where no collection has this index any more.
        texts: the id of its rows in SQLite.
        metric, encoder, function: as the store says, "" where it does not; `function` is Chroma's embedding function.
        settings: what users and clients wrote, as one tree.
    """

    name: str
    index: str
    id: str = ""
    texts: str = ""
    dimension: int | None = None
    metric: str = ""
    encoder: str = ""
    function: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)


def parts(database: Database) -> Iterator[Part]:
    """The collections of a store, in the order of its database. Raises DataError."""
    bases = {one: (tenant, name) for one, name, tenant in _table(database, "databases", "id", "name", "tenant_id")}
    segments = {(of, scope): one for one, scope, of in _table(database, "segments", "id", "scope", "collection")}
    of_collections = _metadata(database, "collection_metadata", "collection_id")
    of_segments = _metadata(database, "segment_metadata", "segment_id")
    columns = ("id", "name", "dimension", "database_id", "schema_str", "config_json_str")
    for one, name, dimension, base, *texts in _table(database, "collections", *columns):
        where = zip(bases.get(base, DEFAULTS), DEFAULTS, strict=True)
        index = str(segments.get((one, "VECTOR"), ""))
        schema, configuration = map(json_object, texts)
        metadata = of_segments.get(index, {}) | of_collections.get(str(one), {})
        yield Part(
            name="/".join([*(str(space) for space, default in where if space != default), str(name)]),
            index=index if FOLDER.fullmatch(index) else "-",
            id=str(one),
            texts=str(segments.get((one, "METADATA"), "")),
            dimension=dimension if isinstance(dimension, int) and 0 < dimension <= WIDEST else None,
            metric=_metric(schema, configuration, metadata),
            **_encoder(schema, configuration),
            settings={"schema": schema, "configuration": configuration, "metadata": metadata},
        )


def lost_parts(database: Database | None, folders: Iterable[str]) -> Iterator[Part]:
    """Indexes that no collection has: of deleted ones, or all where there is no database."""
    if database is None:
        yield from (Part(folder, folder) for folder in folders)
        return
    taken = {one for (one,) in _table(database, "segments", "id")}
    metadata = _metadata(database, "segment_metadata", "segment_id")
    for folder in folders:
        if folder not in taken:
            metric = metadata.get(folder, {}).get("hnsw:space")
            yield Part(f"{folder} (deleted)", folder, metric=metric if isinstance(metric, str) else "")


def _table(database: Database, table: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Columns of a table, None for those that this version of Chroma does not have."""
    there = database.columns(table)
    if there:
        yield from database.read(f"SELECT {', '.join(c if c in there else 'NULL' for c in columns)} FROM {table}")


def _metadata(database: Database, table: str, key: str) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for of, name, *values in _table(database, table, key, "key", "str_value", "int_value", "float_value"):
        found.setdefault(str(of), {})[str(name)] = next((one for one in values if one is not None), None)
    return found


def _metric(schema: Any, configuration: Any, metadata: Values) -> str:
    """From the schema, unless that has the default and metadata says it, as versions before 1.0 do."""
    metric = (
        _at(_index(schema), "space")
        or _at(configuration, "hnsw", "space")
        or _at(configuration, "hnsw_configuration", "space")
    )
    if metric in (None, "l2"):
        metric = metadata.get("hnsw:space") or metric
    return metric if isinstance(metric, str) else "l2"


def _encoder(schema: Any, configuration: Any) -> dict[str, str]:
    functions = (_at(tree, "embedding_function") for tree in (_index(schema), configuration))
    function: Any = next((one for one in functions if isinstance(_at(one, "name"), str)), {})
    name = str(_at(function, "name") or "")
    config = _at(function, "config")
    encoder = model(config) if isinstance(config, dict) else ""
    return {"encoder": encoder or ENCODERS.get(name, name), "function": name}


def _index(schema: Any) -> Any:
    return _at(schema, "keys", "#embedding", "float_list", "vector_index", "config")


def _at(tree: Any, *keys: str) -> Any:
    found: Any = tree
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found
