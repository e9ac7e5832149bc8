"""Outputs that appear whole or not at all, whatever kills the process.

Everything is written under a temporary name beside its place, fsynced, then renamed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unembed.errors import OutputError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it replaces `path`, on failure nothing is left.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            fsync(temporary)
            os.replace(temporary, path)
            fsync(path.parent)
    finally:
        with suppress(OSError):  # of the clean-up: the reason why the work failed must be seen
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it takes the place of `path`.

    An older folder of that name is moved away first and deleted last, so that a process killed in
    between leaves one of the two whole.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        with output_errors(path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                fsync(file)
            if path.exists():
                path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
            fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left unfinished in `folder`. Raises OutputError."""
    with output_errors(folder):
        for path in folder.glob(".*.tmp"):
            number = path.name.split(".")[-2]
            if not number.isdecimal() or _runs(int(number)):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _runs(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C; what was left stays
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def fsync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
