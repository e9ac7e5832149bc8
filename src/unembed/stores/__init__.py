"""Stores: read-only readers of the files, indexes and databases in which people keep vectors.

    store.py    what a store, a collection and its rows are; which reader reads which URI

A user's store is never written to, not even a lock file. Nothing that is read is unpickled or run.
"""

from unembed.stores.store import Collection, Rows, Store, Trace, open_store

__all__ = ["Collection", "Rows", "Store", "Trace", "open_store"]
