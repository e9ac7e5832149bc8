"""Stores: read-only readers of the files, indexes and databases in which people keep vectors.

The contract
    store.py          what a store, a collection and its rows are; which reader reads which URI

Shared by all
    names.py          how a row's text, id and encoder are called
    rows.py           rows in batches of bounded size, and notes of what could not be read
    traces.py         what a store gives away: texts, its encoder, readable files, copies, secrets, endpoints

Shared by readers of files
    local.py          whether files are there, how large they are, JSON in them
    columns.py        which columns of a table hold vectors, texts and ids, and its rows
    groups.py         several files as one table
    child.py          native readers in a process of their own
    sqlite_files.py   SQLite files of a user, hostile ones too
    pickles.py        pickles as data
    messagepack.py    lists in MessagePack

Shared by readers of servers
    records.py        rows out of JSON
    server.py         requests that only read, pages that shrink

Files by kind
    files.py          Parquet, Arrow, JSON lines, CSV, NumPy and others
    datasets.py       folders that Hugging Face `datasets` saved
    faiss.py          FAISS
    lancedb.py        LanceDB
    milvus.py         Milvus Lite
    duckdb.py         DuckDB
    chroma/           Chroma
    sqlite_vec.py     sqlite-vec
    vec0_schema.py    the columns of its tables
    llm.py            the `llm` tool
    txtai.py          txtai

Servers by kind
    qdrant/           Qdrant, also the folder of its client
    elasticsearch.py  Elasticsearch and OpenSearch
    weaviate.py       Weaviate
    pinecone.py       Pinecone
    pgvector/         PostgreSQL
    redis/            Redis

A user's store is never written to, not even a lock file. Nothing that is read is unpickled or run.
"""

from unembed.stores.store import Collection, Rows, Store, Trace, open_store

__all__ = ["Collection", "Rows", "Store", "Trace", "open_store"]
