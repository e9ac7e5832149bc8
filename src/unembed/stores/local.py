"""The files of a store on this machine: whether they are there, how large they are, who may read them."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from unembed.errors import DataError, printable
from unembed.stores.store import Trace

COPIES = (".bak", ".backup", ".old", ".orig", ".copy", "~")  # what names of copies end in, after the store's own name


def existing(location: str) -> Path:
    """The path of a file or folder. Raises DataError: nothing is there, or it may not be read."""
    path = Path(location)
    if not path.exists():
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


def traces(path: Path) -> tuple[Trace, ...]:
    """What a path tells by itself: that every user of the machine may read it, and that copies lie beside it."""
    found = []
    whole = path.resolve()
    try:
        open_to_all = whole.stat().st_mode & stat.S_IROTH
        open_to_all = open_to_all and all(folder.stat().st_mode & stat.S_IXOTH for folder in whole.parents)
        beside = sorted(name for name in os.listdir(whole.parent) if name in {whole.name + end for end in COPIES})
    except OSError:
        return ()
    if open_to_all and os.name != "nt":
        found.append(Trace("readable", "Every user of this machine may read it.", where=whole.name))
    if beside:
        found.append(Trace("copy", "What looks like a copy lies beside it.", where=", ".join(map(printable, beside))))
    return tuple(found)
