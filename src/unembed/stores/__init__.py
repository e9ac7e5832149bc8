"""Stores: read-only readers of the files, indexes and databases in which people keep vectors.

    store.py         what a store, a collection and its rows are; which reader reads which URI
    rows.py          rows in batches of bounded size, and what could not be read
    traces.py        what any store gives away beside its rows
    text_fields.py   which of a row's values is its text

    sqlite_files.py  SQLite files of a user, hostile ones too
    chroma.py        Chroma: chroma_catalog.py its collections, chroma_vectors.py where vectors are, chroma_rows.py
                     rows and deleted rows, hnsw.py the index' files
    qdrant.py        Qdrant: qdrant_folder.py the folder of its client
    sqlite_vec.py    sqlite-vec: vec0_schema.py its columns
    llm.py           the `llm` tool
    txtai.py         txtai; messagepack.py its ids
    pickles.py       pickles as data

A user's store is never written to, not even a lock file. Nothing that is read is unpickled or run.
"""

from unembed.stores.store import Collection, Rows, Store, Trace, open_store

__all__ = ["Collection", "Rows", "Store", "Trace", "open_store"]
