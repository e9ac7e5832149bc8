"""The columns of a table of sqlite-vec, from the statement that made it.

`CREATE VIRTUAL TABLE T USING vec0(...)` has one argument a column or option. Each kind of column is numbered on its
own, from 0: vectors are in `T_vector_chunksNN`, metadata in `T_metadatachunksNN`, auxiliary columns are `valueNN` of
`T_auxiliary`, partitions `partitionNN` of `T_chunks`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from unembed.stores.sqlite_files import VEC0

COLUMNS = 16  # of a kind, as many as sqlite-vec itself allows
NAME = r"\s*([A-Za-z_]\w*)\s+"
VECTOR = re.compile(NAME + r"(float|f32|int8|i8|bit)\w*\s*\[\s*(\d{1,9})\s*\](.*)", re.IGNORECASE | re.DOTALL)
METRIC = re.compile(r"\bdistance_metric\s*=\s*(\w+)", re.IGNORECASE)
KEY = re.compile(NAME + r"\w+\s+(partition|primary)\s+key\b", re.IGNORECASE)
AUXILIARY = re.compile(r"\s*\+" + NAME + r"\w+", re.IGNORECASE)
METADATA = re.compile(NAME + r"(\w+)\s*$")
NUMBERS = {"float": "float32", "f32": "float32", "int8": "int8", "i8": "int8", "bit": "bit"}
SORTS = {"text": "text", "boolean": "bool", "bool": "bool", "int": "int", "integer": "int", "int64": "int"} | {
    "integer64": "int", "float": "float", "double": "float", "float64": "float", "f64": "float",
}  # fmt: skip


@dataclass(frozen=True)
class Vector:
    """A column of vectors: `number` is `float32`, `int8` or `bit`."""

    name: str
    number: str
    dimension: int
    metric: str

    @property
    def size(self) -> int:
        """Bytes of one vector."""
        return {"float32": 4 * self.dimension, "int8": self.dimension, "bit": self.dimension // 8}[self.number]


@dataclass(frozen=True)
class Schema:
    """The columns of a table, each kind in its order; `metadata` with `text`, `int`, `float` or `bool`."""

    vectors: tuple[Vector, ...]
    metadata: tuple[tuple[str, str], ...]
    auxiliary: tuple[str, ...]
    partitions: tuple[str, ...]


def parse(sql: str) -> Schema:
    """The schema of a `CREATE VIRTUAL TABLE ... USING vec0(...)`."""
    vectors: list[Vector] = []
    metadata: list[tuple[str, str]] = []
    auxiliary: list[str] = []
    partitions: list[str] = []
    for argument in _arguments(sql):
        if found := VECTOR.fullmatch(argument):
            number, dimension = NUMBERS[found[2].lower()], int(found[3])
            metric = METRIC.search(found[4])
            default = "hamming" if number == "bit" else "l2"
            vectors.append(Vector(found[1], number, dimension, metric[1].lower() if metric else default))
        elif found := KEY.match(argument):
            if found[2].lower() == "partition":
                partitions.append(found[1])
        elif found := AUXILIARY.match(argument):
            auxiliary.append(found[1])
        elif (found := METADATA.fullmatch(argument)) and found[2].lower() in SORTS:
            metadata.append((found[1], SORTS[found[2].lower()]))
    return Schema(
        tuple(vectors[:COLUMNS]), tuple(metadata[:COLUMNS]), tuple(auxiliary[:COLUMNS]), tuple(partitions[:COLUMNS])
    )


def _arguments(sql: str) -> Iterator[str]:
    """What lies between the commas of `vec0(...)`."""
    start = VEC0.search(sql)
    if start:
        yield from sql[start.end() :].rstrip().rstrip(";").rstrip().removesuffix(")").split(",")
