"""FAISS indexes: one file, or all of a folder. Read in a child process, since FAISS may abort on a file.

What comes back of a quantised index is an approximation; the collection's `number` is the index' own description, as
`faiss.index_factory` would take it. Of LangChain's pair only `index.faiss` is read: `index.pkl` is a pickle.
"""

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import DataError, printable
from unembed.stores import child
from unembed.stores.local import existing
from unembed.stores.rows import WIDEST, chosen, note_unread
from unembed.stores.store import BATCH, Collection, Rows
from unembed.stores.traces import of_store
from unembed.tables.streams import reason

KIND = "faiss"
ENDINGS = (".faiss", ".index")
BYTES = 1 << 26  # of vectors that are decoded at once: an inverted file is walked through for each part
TRANSFORMS = {  # OPQ's matrix is one of the first kind once it was written to a file
    "LinearTransform": "OPQ", "PCAMatrix": "PCA", "RandomRotationMatrix": "RR", "NormalizationTransform": "L2norm",
}  # fmt: skip

Part = tuple[Any, Any]  # ids (n,) int64, vectors (n, d) float32


def open(location: str) -> "FaissStore":  # noqa: A001  (the name of a reader's function)
    """A FAISS file or a folder of them. Raises DataError, MissingPackageError."""
    path = existing(location)
    child.need("faiss", "FAISS", location)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
        if not files:
            raise DataError(f"{printable(location)}: this folder holds no file ending in {' or '.join(ENDINGS)}")
    return FaissStore(location, {file.stem: file for file in files})


class FaissStore:
    """See `store.Store`. Each index is a collection, called as its file without the ending."""

    kind = KIND

    def __init__(self, location: str, files: dict[str, Path]) -> None:
        self.location, self._files = location, files
        self.notes = [
            f"{printable(file.with_suffix('.pkl').name)}: a pickle, which is never read as it may run code; texts that "
            f"belong to {printable(file.name)} may be in it"
            for file in files.values()
            if file.with_suffix(".pkl").exists()
        ]

    def collections(self) -> list[Collection]:
        found: list[Collection] = []
        errors: list[DataError] = []
        for name, file in self._files.items():
            try:
                ((known, _),) = child.frames(KIND, "tables", str(file))
            except DataError as error:
                errors.append(error)
                continue
            found.append(Collection(name, traces=tuple(of_store(file)), about={"file": file.name}, **known))
        note_unread(self.notes, found, errors)
        return found

    def rows(self, name: str, batch: int = BATCH) -> Iterator[Rows]:
        file = chosen(self._files, name, self.location)
        for _, part in child.frames(KIND, "scan", str(file), batch=batch):
            ids, vectors = part.columns
            array = vectors.flatten().to_numpy().reshape(len(ids), vectors.type.list_size)
            nothing: list[dict[str, Any]] = [{} for _ in range(len(ids))]
            yield Rows([str(one) for one in ids.to_pylist()], array, [None] * len(ids), nothing)

    def close(self) -> None:
        pass


# What follows runs in the child process.


def tables(location: str) -> Iterator[child.Frame]:
    """What is known of the index in a file."""
    index = _load(location)
    number, exact = _describe(index)
    metric = {0: "inner product", 1: "l2"}.get(index.metric_type, f"metric {index.metric_type}")
    known = {"rows": index.ntotal, "dimension": index.d, "number": number[:100], "metric": metric, "lossy": not exact}
    yield known, None


def scan(location: str, batch: int) -> Iterator[child.Frame]:
    """Record batches of ids and vectors."""
    import pyarrow as pa

    index = _load(location)  # what is taken out of it lives as long as it does
    for ids, vectors in _parts(index, location):
        for at in range(0, len(ids), batch):
            part = np.ascontiguousarray(vectors[at : at + batch])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
            yield {}, pa.record_batch([pa.array(ids[at : at + batch]), flat], ["id", "vector"])


def _load(location: str) -> Any:
    import faiss

    try:
        index = faiss.read_index(location)
    except RuntimeError as error:
        raise DataError(f"{printable(location)}: {_what_is_wrong(location, error)}") from error
    if not 0 < index.d <= WIDEST or index.ntotal < 0:
        raise DataError(f"{printable(location)}: has {index.ntotal:,} vectors of {index.d:,} numbers")
    return index


def _what_is_wrong(location: str, error: Exception) -> str:
    """Why FAISS does not read a file, and what to do, in words of its owner."""
    with builtins.open(location, "rb") as file:
        head = file.read(4)
    if len(head) == 4 and "not recognized" in str(error):
        if head[:2] == b"IB":
            return "is a FAISS index of binary vectors, which are not read, expected one of float32 vectors"
        return "does not begin as a FAISS index does, expected a file that faiss.write_index wrote"
    return "is cut short or damaged, expected a whole FAISS index: take it from a backup, or write it again"


def _words(error: Exception) -> str:
    """A FAISS exception's own words, without the place in its source."""
    return printable(reason(error).partition(" at /")[2].partition(": ")[2] or reason(error))


def _parts(index: Any, location: str) -> Iterator[Part]:
    """Ids and vectors of an index, many at once, wrappers taken off."""
    import faiss

    if isinstance(index, faiss.IndexIDMap):  # `reconstruct_n` of one aborts the process
        names = faiss.vector_to_array(index.id_map)
        for ids, vectors in _parts(faiss.downcast_index(index.index), location):
            yield names[ids], vectors
        return
    if isinstance(index, faiss.IndexPreTransform):
        for ids, inner in _parts(faiss.downcast_index(index.index), location):
            vectors = np.empty((len(ids), index.d), np.float32)
            with _told(location):
                index.reverse_chain(len(ids), faiss.swig_ptr(inner), faiss.swig_ptr(vectors))
            yield ids, vectors
        return
    names = _renumbered(index) if isinstance(index, faiss.IndexIVF) else None
    if getattr(index, "fine_quantizer", True) is None:  # FAISS forgets it when it reads such a file, and would crash
        if not hasattr(index, "pq"):  # FAISS 1.15 gives vectors back of these, but others than it was given
            raise DataError(f"{printable(location)}: FAISS gives no right vectors back of an {type(index).__name__}")
        index.fine_quantizer = index.pq
    if index.ntotal and names is None:
        with _told(location):
            index.reconstruct(0)
    count = max(1, BYTES // (4 * index.d))
    for first in range(0, index.ntotal, count):
        ids = np.arange(first, min(first + count, index.ntotal))
        with _told(location):
            vectors = index.reconstruct_n(first, len(ids))
        yield ids if names is None else names[ids], vectors


@contextmanager
def _told(location: str) -> Iterator[None]:
    """Turn what FAISS says of an index that gives no vectors back into a DataError."""
    try:
        yield
    except RuntimeError as error:
        words = f"FAISS gives no vectors back of this kind of index ({_words(error)})"
        raise DataError(f"{printable(location)}: {words}") from error


def _renumbered(index: Any) -> Any:
    """Number the vectors of an inverted file from 0 in the order of their ids, which `reconstruct_n` needs.

    Returns:
        their ids, int64 (n,), in that order.
    """
    import faiss

    sizes = [index.invlists.list_size(one) for one in range(index.nlist)]
    views = [faiss.rev_swig_ptr(index.invlists.get_ids(one), size) for one, size in enumerate(sizes) if size]
    ids = np.concatenate(views) if views else np.empty(0, np.int64)
    order = np.argsort(ids, kind="stable")
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(len(ids))
    for view, part in zip(views, np.split(ranks, np.cumsum([len(view) for view in views])[:-1]), strict=True):
        view[:] = part
    return ids[order]


def _describe(index: Any) -> tuple[str, bool]:
    """An index in FAISS' words, and whether its vectors come back as they were stored."""
    import faiss

    kind = type(index).__name__.removeprefix("Index")
    if isinstance(index, faiss.IndexIDMap):
        inner, exact = _describe(faiss.downcast_index(index.index))
        return f"{kind},{inner}", exact
    if isinstance(index, faiss.IndexPreTransform):
        inner, exact = _describe(faiss.downcast_index(index.index))
        chain = [faiss.downcast_VectorTransform(index.chain.at(n)) for n in range(index.chain.size())]
        names = [TRANSFORMS.get(type(one).__name__, type(one).__name__) for one in chain]
        shown = [name if name == "L2norm" else f"{name}{one.d_out}" for name, one in zip(names, chain, strict=True)]
        return ",".join([*shown, inner]), exact and all(one.d_out >= one.d_in for one in chain)
    if isinstance(index, faiss.IndexRefine):
        base, refined = (_describe(faiss.downcast_index(one)) for one in (index.base_index, index.refine_index))
        return f"{base[0]},R{refined[0]}", refined[1]
    if isinstance(index, faiss.IndexHNSW | faiss.IndexNSG):
        inner, exact = _describe(faiss.downcast_index(index.storage))
        graph = f"HNSW{index.hnsw.nb_neighbors(1)}" if isinstance(index, faiss.IndexHNSW) else f"NSG{index.nsg.R}"
        return f"{graph},{inner}", exact
    if isinstance(index, faiss.IndexIVF):
        code, exact = _code(index, kind.removeprefix("IVF"))
        return f"IVF{index.nlist},{code}", exact
    return _code(index, kind)


def _code(index: Any, kind: str) -> tuple[str, bool]:
    """How an index without its wrappers keeps numbers."""
    import faiss

    if kind in ("Flat", "FlatL2", "FlatIP", "FlatDedup"):
        return "Flat", True
    if hasattr(index, "sq"):
        names = {getattr(faiss.ScalarQuantizer, name): name for name in dir(faiss.ScalarQuantizer) if name[:3] == "QT_"}
        name = names.get(index.sq.qtype, "QT_")[3:]
        short = f"SQ{name.removesuffix('_uniform').removesuffix('bit').removesuffix('_direct')}"
        return short, name in ("fp16", "bf16", "8bit_direct")
    if hasattr(index, "pq"):
        return f"PQ{index.pq.M}x{index.pq.nbits}{'fs' if 'FastScan' in kind else ''}", False
    return kind.replace("FastScan", "fs") or "?", False
