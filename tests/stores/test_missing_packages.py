"""Readers whose client is not installed say what to install."""

import importlib
import sys

import pytest

from unembed.errors import MissingPackageError


@pytest.mark.parametrize(("reader", "package", "extra"), [
    ("pgvector", "psycopg", "stores-pgvector"), ("redis", "redis", "stores-redis")
])  # fmt: skip
def test_a_missing_client_is_named(reader: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(f"unembed.stores.{reader}")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs {package}: pip install 'unembed\[{extra}\]'"):
        importlib.import_module(f"unembed.stores.{reader}")
