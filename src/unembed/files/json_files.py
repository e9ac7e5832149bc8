"""JSON files of an inverter, of an encoder and of a run, whose faults are errors of ours."""

import json
from pathlib import Path
from typing import Any

# Bytes. Vocabularies are the largest: EmbeddingGemma's has 33 MB. As Python objects JSON takes up to thirty times that.
LARGEST = 1 << 26


def read_text(path: Path, error: type[Exception]) -> str:
    """A file of UTF-8 of at most 64 MiB. Raises `error`."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise error(f"{path}: is larger than {LARGEST >> 20} MiB")
        return content.decode("utf-8")
    except OSError as failure:
        raise error(f"{path}: cannot be read ({failure.strerror or failure})") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path}: is not UTF-8 ({failure.reason} at byte {failure.start})") from failure


def read_json(path: Path, error: type[Exception]) -> Any:
    """Parse a JSON file. Raises `error`, also where it nests too deeply."""
    text = read_text(path, error)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise error(f"{path}: is not JSON ({failure})") from failure
