"""JSON in the shapes that clients of vector stores and embeddings endpoints give, as rows.

A row is an object, or a bare array of numbers. What holds rows is unfolded: a list; an object of parallel lists
(Chroma's `get`, ollama's `/api/embed`); an object with rows below one of the keys that clients use (`data` of OpenAI's
answers, `points` of Qdrant's, `vectors` and `matches` of Pinecone's, `hits` of Elasticsearch's, `response` and `body`
of a batch's output).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.tables.streams import FAILURES, LONGEST_LINE, Allowance, open_bytes, read_lines, reason

LARGEST = 1 << 28  # bytes of a document that is one JSON value; as Python objects it takes several times as much
KEYS = ("data", "points", "vectors", "matches", "hits", "result", "results", "response", "body", "records")
VECTORS = ("embedding", "embeddings", "vector", "vectors", "values", "emb")
ITSELF = "value"  # column of a row that is no object
MOST = 1 << 20  # lists and objects in one JSON value
DEEPEST = 8  # objects within objects before rows are reached

Row = dict[str, Any]


def unfold(tree: Any, depth: int = 0) -> list[Row]:
    """The rows of a JSON value; an object that holds none is one itself."""
    if isinstance(tree, list) and tree and isinstance(tree[0], dict | list):
        several = (unfold(item, depth + 1) if isinstance(item, dict) else [{ITSELF: item}] for item in tree)
        return [row for rows in several for row in rows]
    if not isinstance(tree, dict):
        return [{ITSELF: tree}]
    count = next((len(tree[name]) for name in VECTORS if _of_vectors(tree.get(name))), None)
    if count is not None and not isinstance(tree.get("text"), str):
        parallel = {key: value for key, value in tree.items() if isinstance(value, list) and len(value) == count}
        alone = {key: value for key, value in tree.items() if not isinstance(value, list)}
        if count > 1:
            alone.pop("id", None)  # the answer's, not that of each row
        if len(alone) * count > 8 * MOST:  # each row gets them
            raise ValueError(f"{count:,} rows with {len(alone):,} values in common")
        return [alone | dict(zip(parallel, row, strict=True)) for row in zip(*parallel.values(), strict=True)]
    if depth >= DEEPEST or any(isinstance(tree.get(name), str | list) for name in ("text", *VECTORS[:3], *VECTORS[4:])):
        return [tree]
    for key in KEYS:
        value = tree.get(key)
        if key == "vectors" and isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            return [{"id": name} | row for name, row in value.items()]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [_outer(tree) | row for row in unfold(value, depth + 1)]
        if isinstance(value, dict) and (found := unfold(value, depth + 1)) != [value]:
            return [_outer(tree) | row for row in found]
    return [tree]


def _of_vectors(value: Any) -> bool:
    """Whether a value is a list of lists of numbers."""
    inner = value[0] if isinstance(value, list) and value else None
    return isinstance(inner, list) and bool(inner) and isinstance(inner[0], int | float)


def _outer(tree: Row) -> Row:
    """What an object says of the rows in it: the name of a request of a batch."""
    return {"custom_id": tree["custom_id"]} if isinstance(tree.get("custom_id"), str) else {}


def parsed(name: str, place: str, text: str) -> Any:
    """A JSON value. Raises DataError."""
    if (count := text.count("[") + text.count("{")) > MOST:  # each takes some hundred bytes, however short it is
        raise DataError(f"{name}: {place} has {count:,} lists and objects, expected at most {MOST:,} in one JSON value")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: {place} is not JSON ({reason(error)})") from error


def read_json(path: Path, name: str) -> Iterator[tuple[int, Row, int]]:
    """Line number, value and size in characters of each row of a file of JSON lines, or of one JSON document.

    Blank lines are no rows. A file whose first line ends within a JSON value is one document.

    Raises:
        DataError: it cannot be read, is not JSON, or is too large to be read as one document.
    """
    for number, line in read_lines(path, name):
        if not (stripped := line.strip()):
            continue
        if number == 1 and stripped[-1] in "{[,":
            yield from ((1, row, 0) for row in _rows(name, "the document", _document(path, name)))
            return
        rows = _rows(name, f"line {number}", line)
        yield from ((number, row, len(line) // len(rows)) for row in rows)


def _rows(name: str, place: str, text: str) -> list[Row]:
    tree = parsed(name, place, text)
    try:
        return unfold(tree)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: {place} cannot be read as rows ({reason(error)})") from error


def _document(path: Path, name: str) -> str:
    allowance = Allowance(path, name)
    try:
        with open_bytes(path) as stream:
            content = stream.read(LARGEST + 1)
    except FAILURES as error:
        raise DataError(f"{name}: cannot be read ({reason(error)})") from error
    allowance.take(len(content))
    if len(content) > LARGEST:
        raise DataError(
            f"{name}: is one JSON value of more than {LARGEST >> 20} MiB, expected JSON lines of at most "
            f"{LONGEST_LINE >> 20} MiB each"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 ({error.reason} at byte {error.start})") from error
