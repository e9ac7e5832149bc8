"""Names by which clients and frameworks call a row's text, id and encoder, and which of a row's values is its text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# The likeliest first: of fastembed, LangChain, LlamaIndex, Haystack, txtai and others; then those of shorter texts.
TEXTS = (
    "text", "document", "documents", "content", "contents", "page_content", "chunk", "chunk_text", "body", "passage",
    "sentence", "paragraph", "texts", "raw_text", "original_text", "input",
)  # fmt: skip
SHORT_TEXTS = ("message", "description", "abstract", "summary", "title", "question", "answer")
IDS = ("id", "_id", "ids", "custom_id", "doc_id", "document_id", "chunk_id", "uuid", "pk", "key")
ENCODERS = ("embedding_model", "embedding_model_name", "embedding_model_id", "encoder")
MODELS = ("model_name", "model", "model_id")  # of which only some are encoders
IN_SETTINGS = (*MODELS, "deployment_id", "deployment", "name")  # of an encoder
ENCODER = re.compile(
    r"embed|encod|minilm|mpnet|ada-002|sentence|(?:^|[-/_])(?:bge|e5|gte|gtr|jina|voyage|nomic)", re.IGNORECASE
)
SAMPLE = 100  # rows that tell the text


def last(name: str) -> str:
    """What stands after the last dot, in small letters."""
    return name.rpartition(".")[2].lower()


def first(known: Sequence[str], names: Iterable[str]) -> str | None:
    """The one of `names` that is called as the first of the known ones."""
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(last(name), name)
    return next((by_name[name] for name in known if name in by_name), None)


def prose(strings: Mapping[str, Sequence[str]]) -> str | None:
    """The name whose strings are the longest on average, of those with several words."""
    lengths = {
        name: sum(map(len, some)) / len(some)
        for name, some in strings.items()
        if some and 2 * sum(" " in one.strip() for one in some) > len(some)
    }
    return max(lengths, key=lambda name: lengths[name], default=None)


def text_field(rows: Iterable[Mapping[str, Any]]) -> str:
    """The name of the value that is the text in most of the first rows, "" where none is. A usual name wins."""
    strings: dict[str, list[str]] = {}
    for row, _ in zip(rows, range(SAMPLE), strict=False):
        for name, value in row.items():
            if isinstance(value, str) and value:
                strings.setdefault(name, []).append(value)
    return first(TEXTS, strings) or prose(strings) or ""


def encoder(values: Mapping[str, Sequence[Any]]) -> str:
    """The encoder that a value of all rows names, "" where none does. values: of each name, those of some rows."""
    constant = {
        name: found[0][:200]
        for name, found in values.items()
        if found and isinstance(found[0], str) and found[0] and all(one == found[0] for one in found)
    }
    if (name := first(ENCODERS, constant)) is not None:
        return constant[name]
    name = first(MODELS, constant)
    return constant[name] if name is not None and ENCODER.search(constant[name]) else ""


def model(settings: Mapping[str, Any]) -> str:
    """The model that the settings of an encoder name, "" where they name none."""
    found = (settings.get(key) for key in IN_SETTINGS)
    return next((one[:200] for one in found if isinstance(one, str) and one), "")
