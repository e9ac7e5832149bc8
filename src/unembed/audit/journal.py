"""An audit on disk, so that one that was interrupted goes on: samples, recovered rows, finished collections.

It holds texts in clear. So its folder is for its owner alone, and it is deleted when the audit is complete. Numbers and
JSON only, no pickles. What is damaged or of other options is not read: that part is done again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from pydantic import TypeAdapter, ValidationError

from unembed.audit.findings import Audited
from unembed.audit.sample import Sample
from unembed.errors import InputError
from unembed.files.atomic import atomic_file, output_errors
from unembed.stores.store import Rows

FOLDER = ".unembed-audit"
FORMAT = 1


class Record(NamedTuple):
    """What came back of one row. ids: content tokens. calls: of the encoder that recovering it took."""

    text: str
    ids: list[int]
    calls: int


_RECORD = TypeAdapter(Record)


class Journal:
    """What is known of one collection's audit.

    Args:
        folder: of the report; None keeps nothing.
        key: everything that decides the results, JSON-ready.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None, key: Any) -> None:
        self._base = None
        if folder is not None:
            place = folder / FOLDER
            with output_errors(place):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.chmod(place, 0o700)
            self._base = place / hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()[:32]

    def _path(self, ending: str) -> Path | None:
        return None if self._base is None else self._base.with_name(self._base.name + ending)

    @property
    def search(self) -> Path | None:
        """Where guided inversions of rows keep how far they have come."""
        return self._path(".search")

    def finished(self) -> Audited | None:
        """The collection, if it was audited whole."""
        path = self._path(".json")
        if path is None or not path.is_file():
            return None
        try:
            return TypeAdapter(Audited).validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def finish(self, audited: Audited) -> None:
        """Keep the finished collection; its parts are no longer needed. Raises OutputError."""
        if (path := self._path(".json")) is None:
            return
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(TypeAdapter(Audited).dump_python(audited)), encoding="ascii")
        for ending in (".npz", ".rows.jsonl", ".random.jsonl"):
            if (part := self._path(ending)) is not None:
                part.unlink(missing_ok=True)
        if self.search is not None:
            shutil.rmtree(self.search, ignore_errors=True)

    def sample(self) -> tuple[Sample, dict[str, Any]] | None:
        """The rows that were drawn, and what their vectors say."""
        path = self._path(".npz")
        if path is None or not path.is_file():
            return None
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = dict(file)
            tree = json.loads(arrays["tree"].tobytes())
            rows, others = (_rows(tree[name], arrays[name]) for name in ("rows", "others"))
            return Sample(rows, others, int(tree["read"]), bool(tree["complete"])), dict(tree["vectors"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, AssertionError):
            return None

    def keep_sample(self, sample: Sample, vectors: dict[str, Any]) -> None:
        """Keep the rows that were drawn. Raises OutputError."""
        if (path := self._path(".npz")) is None:
            return
        tree = {"read": sample.read, "complete": sample.complete, "vectors": vectors}
        tree |= {"rows": _tree(sample.rows), "others": _tree(sample.others)}
        content = np.frombuffer(json.dumps(tree).encode(), np.uint8)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, tree=content, rows=sample.rows.vectors, others=sample.others.vectors)

    def recovered(self, part: str) -> list[Record]:
        """What `keep_recovered` was given, up to what is damaged, which is cut off. Raises OutputError."""
        path = self._path(f".{part}.jsonl")
        if path is None or not path.is_file():
            return []
        found: list[Record] = []
        whole = 0
        with output_errors(path), path.open("r+b") as file:
            for line in file:
                try:
                    found.append(_RECORD.validate_json(line))
                except ValidationError:
                    break
                whole += len(line)
            file.truncate(whole)
        return found

    def keep_recovered(self, part: str, records: Sequence[Record]) -> None:
        """Append what came back of further rows. Raises OutputError."""
        if (path := self._path(f".{part}.jsonl")) is None:
            return
        with output_errors(path), path.open("ab") as file:
            file.write(b"".join(_RECORD.dump_json(record) + b"\n" for record in records))


def remove(folder: Path) -> None:
    """Delete the journals of a report's folder."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _tree(rows: Rows) -> dict[str, Any]:
    return {"ids": rows.ids, "texts": rows.texts, "hashes": rows.hashes}


def _rows(tree: dict[str, Any], vectors: Any) -> Rows:
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise InputError("vectors of a journal are not float32")
    return Rows(tree["ids"], vectors, tree["texts"], [{} for _ in tree["ids"]], tree["hashes"])
