"""Which of a row's values is its text, where a store does not say."""

from collections.abc import Iterable, Mapping
from typing import Any

# As the clients and frameworks call it that fill such stores: fastembed, LangChain, LlamaIndex, Haystack, txtai.
NAMES = (
    "document",
    "page_content",
    "text",
    "content",
    "contents",
    "chunk",
    "chunk_text",
    "body",
    "passage",
    "sentence",
)
SAMPLE = 100  # rows


def text_field(rows: Iterable[Mapping[str, Any]]) -> str:
    """The name of the field that holds the text in most of the first rows, "" where none does.

    A usual name wins; else it is the longest text on average that has several words.
    """
    texts: dict[str, list[str]] = {}
    for row, _ in zip(rows, range(SAMPLE), strict=False):
        for name, value in row.items():
            if isinstance(value, str) and value:
                texts.setdefault(name, []).append(value)
    for name in NAMES:
        if name in texts:
            return name
    worded = {name: some for name, some in texts.items() if 2 * sum(" " in one.strip() for one in some) > len(some)}
    return max(worded, key=lambda name: sum(map(len, worded[name])) / len(worded[name]), default="")
