"""What the tests of stores share: stores made by their own clients, whole reads, and whether a tree is as it was."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unembed.stores.store import Floats, Store

QUIET = {
    "ANONYMIZED_TELEMETRY": "False", "CHROMA_OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip


def made(script: str, folder: Path, *packages: str) -> Any:
    """Run a script beside this file, which makes a store in `folder` with its client, and give the JSON it prints.

    The test is skipped where one of the packages is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"could not import {package!r}")
    call = [sys.executable, str(Path(__file__).with_name(script)), str(folder)]
    done = subprocess.run(call, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Of all files and folders below: a hash of the content, and the time of the last change."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in [folder, *sorted(folder.rglob("*"))]
    }


class Read:
    """All rows of a collection at once."""

    def __init__(self, store: Store, name: str, batch: int = 7) -> None:
        batches = list(store.rows(name, batch))
        assert all(0 < len(one) <= batch for one in batches)
        self.ids = [one for rows in batches for one in rows.ids]
        self.texts = [one for rows in batches for one in rows.texts]
        self.metadata = [one for rows in batches for one in rows.metadata]
        self.hashes = [one for rows in batches for one in rows.hashes or [None] * len(rows)]
        self.vectors: Floats = np.concatenate([rows.vectors for rows in batches]) if batches else np.empty((0, 0))
        json.dumps(self.metadata)

    def of(self, name: str) -> Floats:
        """The vector of an id."""
        return self.vectors[self.ids.index(name)]
