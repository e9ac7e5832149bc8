"""Native readers in a process of their own: what a damaged or hostile file does to it is one line of an error.

A module's `tables(location)` and `scan(location, **words)` run in the child and yield pairs (what is known, an Arrow
record batch or None). The parent gets each as a frame: two lengths (uint32, little-endian), JSON, and the batch in
Arrow's stream format. The child has bounded memory and time, leaves no core dump, and cannot write to any file.
"""

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from unembed import errors
from unembed.errors import DataError, UnembedError, extra, printable
from unembed.stores.local import size

# Bytes of address space: of Python, clients and their threads, and so many times what the files take.
MEMORY, TIMES = 3 << 30, 4
SECONDS, PACE = 60.0, 10 << 20  # until a frame must come: so many, and one more for so many bytes of the files
LARGE, FRAME = 1 << 26, 1 << 30  # bytes of a frame: from which it is cut in two, and at most
HEAD = struct.Struct("<II")
BEFORE = {  # each thread takes address space
    "LANCE_CPU_THREADS": "2", "LANCE_IO_THREADS": "4", "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip

PLACES = re.compile(r",? ?/[^\s:]+\.rs:\d+(:\d+)?")  # in a library's own source

Frame = tuple[dict[str, Any], Any]


def need(package: str, kind: str, location: str) -> None:
    """Raise MissingPackageError where what reads a kind of store is not installed."""
    with extra("stores", f"{printable(location)}: reading {kind}"):
        for name in (package, "pyarrow"):
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


def frames(module: str, operation: str, location: str, **words: Any) -> Iterator[Frame]:
    """What `operation` of a module of this package yields, from a child process.

    Raises:
        DataError: the store cannot be read, or its reader crashed, or took too much memory or too long.
        UnembedError: as the module raises it.
    """
    seconds = SECONDS + size(Path(location)) / PACE
    process = _started(module, operation, location, json.dumps(words))
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    status = None
    try:
        while True:
            timer = threading.Timer(seconds, stop)
            timer.start()
            try:
                frame = _read(process.stdout, location)
                status = process.wait() if frame is None else None
            finally:
                timer.cancel()
            if frame is None:
                break
            if error := frame[0].get("error"):
                kind = getattr(errors, error[0], None)
                raise (kind if isinstance(kind, type) and issubclass(kind, UnembedError) else DataError)(error[1])
            yield frame
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    if late.is_set():
        raise DataError(f"{printable(location)}: gave nothing for {seconds:,.0f} s, expected rows; is it damaged?")
    if status:
        how = signal.Signals(-status).name if -status in {*signal.Signals} else f"code {status}"
        raise DataError(f"{printable(location)}: its reader crashed ({how}), so that it is damaged or not supported")


def _started(*words: str) -> subprocess.Popen[bytes]:
    """The child process. Raises DataError where it cannot be started, such as for names as long as no system takes."""
    paths = os.pathsep.join(filter(None, sys.path))
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", "unembed.stores.child", *words], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **BEFORE, "PYTHONPATH": paths},
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise DataError(
            f"{printable(words[2])}: its reader cannot be started ({printable(str(error))[:200]})"
        ) from error


def _read(stream: IO[bytes], location: str) -> Frame | None:
    """The next frame; None at the end, also where it is cut off. Raises DataError."""
    if len(head := stream.read(HEAD.size)) < HEAD.size:
        return None
    known, batch = HEAD.unpack(head)
    if known + batch > FRAME:
        raise DataError(
            f"{printable(location)}: rows take {(known + batch) >> 20:,} MiB, expected {FRAME >> 20:,} at most"
        )
    words, body = stream.read(known), stream.read(batch)
    if len(words) + len(body) < known + batch:
        return None
    return json.loads(words), _batch(body) if batch else None


def _batch(body: bytes) -> Any:
    import pyarrow as pa

    (batch,) = pa.ipc.open_stream(body)
    batch.validate(full=True)
    return batch


def sample(table: Any) -> Any:
    """An Arrow table as one record batch that fits into a frame: fewer rows where they are large."""
    import pyarrow as pa

    batches = table.combine_chunks().to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)
    while batch.nbytes > LARGE and len(batch) > 1:
        batch = batch.slice(0, len(batch) // 2)
    return batch


def _write(stream: IO[bytes], known: dict[str, Any], batch: Any = None) -> None:
    """One frame, or several where the batch is large."""
    if batch is not None and batch.nbytes > LARGE and len(batch) > 1:
        _write(stream, known, batch.slice(0, len(batch) // 2))
        _write(stream, known, batch.slice(len(batch) // 2))
        return
    body = io.BytesIO()
    if batch is not None:
        import pyarrow as pa

        # A dictionary would be sent with every frame, however few of its values are in it.
        plain = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns]
        batch = pa.record_batch(plain, batch.schema.names)
        with pa.ipc.new_stream(body, batch.schema) as writer:
            writer.write_batch(batch)
    words = json.dumps(known).encode()
    stream.write(HEAD.pack(len(words), body.tell()))
    stream.write(words)
    stream.write(body.getbuffer())
    stream.flush()


def _confine(memory: int) -> None:
    """No more address space than `memory` bytes, no core dump, no byte written to a file."""
    with suppress(ModuleNotFoundError):  # not on Windows
        import resource

        for limit, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
            hard = resource.getrlimit(limit)[1]
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(limit, (least, least))


def _main(module: str, operation: str, location: str, words: str) -> None:
    """What the child does."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no frame
    memory = MEMORY + TIMES * size(Path(location))
    _confine(memory)
    place = printable(location)
    try:
        for known, batch in getattr(import_module(f"unembed.stores.{module}"), operation)(
            location, **json.loads(words)
        ):
            _write(stream, known, batch)
        return
    except UnembedError as error:
        found = [type(error).__name__, str(error)]
    except BrokenPipeError:
        return  # nobody reads on
    except MemoryError:
        found = ["DataError", f"{place}: takes more than {memory >> 20:,} MiB of memory; is it damaged?"]
    except BaseException as error:  # also the panics of Rust, which are no Exceptions
        words = printable(PLACES.sub("", str(error)) or type(error).__name__)
        found = ["DataError", f"{place}: cannot be read ({words[:300]})"]
    _write(stream, {"error": found})


if __name__ == "__main__":
    _main(*sys.argv[1:])
