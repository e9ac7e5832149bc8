"""Qdrant: the folder of its Python client's local mode (folder.py), or a server (server.py)."""

import re
from importlib import import_module

from unembed.stores.store import Opener, Store

SERVER = re.compile(r"https?://", re.IGNORECASE)


def open(location: str) -> Store:  # noqa: A001  (the name of a reader's function)
    """A Qdrant store: a folder with `meta.json`, or a server's address. Raises DataError, UnembedError."""
    if SERVER.match(location):
        server: Opener = import_module("unembed.stores.qdrant.server").open
        return server(location)
    from unembed.stores.qdrant.folder import QdrantFolder

    return QdrantFolder(location)
