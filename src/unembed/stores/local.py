"""Files of a store on this machine: whether they are there, how large they are, and JSON in them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from unembed.errors import DataError, printable
from unembed.files.json_files import read_json


def existing(location: str) -> Path:
    """The path of a file or folder. Raises DataError: nothing is there, or it may not be read."""
    path = Path(location)
    if not os.path.exists(path):
        raise DataError(f"{printable(location)}: no such file or folder")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise DataError(f"{printable(location)}: cannot be read (Permission denied)")
    return path


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    total = 0
    for file in files:
        with suppress(OSError):  # one that has gone meanwhile takes nothing
            total += file.stat().st_size
    return total


def json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises DataError."""
    found = read_json(path, DataError)
    if not isinstance(found, dict):
        raise DataError(f"{printable(str(path))}: is no JSON object")
    return found
