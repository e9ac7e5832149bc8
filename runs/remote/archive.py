"""A folder as compressed parts with SHA-256 sums, and back.

    load-01/part-000.xz ...   a load is what one transfer takes
    load-01/SHA256SUMS        of all parts of all loads, as `sha256sum -c` reads it

One behind the other the parts are a .tar.xz or a .tar.gz, which `cat load-*/part-* | tar xJ` unpacks too. Each part is
compressed on its own, so that all cores share the work, and what is damaged is known by name.
"""

import gzip
import hashlib
import lzma
import os
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from unembed.errors import DataError
from unembed.files.atomic import atomic_folder

MIB = 1 << 20
LOAD = 60 * MIB  # of the 64 that a transfer takes; the checkout travels with it
SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (load-\d+/part-\d+\.(?:xz|gz))")
# Tokens take .58 of their size as xz, .74 as gz; weights in 8 bits .79 and .84, which takes a tenth of the time.
COMPRESS = {"xz": lzma.compress, "gz": partial(gzip.compress, compresslevel=1)}
DECOMPRESS = {"xz": lzma.decompress, "gz": gzip.decompress}


def write(folder: Path, out: Path, part: int, form: str) -> list[int]:
    """Write all that is in `folder` as loads below `out`, which appears whole or not at all; the bytes of each load.

    Args:
        part: bytes of a part before compression, which makes what cannot be compressed 0.1 % larger at most.
        form: xz or gz.

    Raises:
        OutputError: `out` cannot be written.
    """
    with atomic_folder(out) as temporary, TemporaryFile(dir=temporary.parent) as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(folder, ".")
        stream.flush()

        def compressed(start: int) -> bytes:
            return COMPRESS[form](os.pread(stream.fileno(), part, start))

        sizes: list[int] = []
        sums = ""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, data in enumerate(pool.map(compressed, range(0, stream.tell(), part))):
                if not sizes or sizes[-1] + len(data) > LOAD:
                    sizes.append(0)
                name = f"load-{len(sizes):02d}/part-{number:03d}.{form}"
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(data)
                sizes[-1] += len(data)
                sums += f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for load in temporary.iterdir():
            (load / SUMS).write_text(sums)
    return sizes


def read(loads: Path, target: Path) -> None:
    """Check the loads in the folder `loads` and unpack them into `target`.

    A file or folder at the top of `target` is replaced as a whole by what is unpacked under its name; others stay.

    Raises:
        DataError: a load is missing or damaged, or loads of two packings are mixed.
    """
    sums = {path.read_text(errors="replace"): path for path in sorted(loads.glob(f"load-*/{SUMS}"))}
    if len(sums) != 1:
        raise DataError(f"{loads}: {len(sums)} different load-*/{SUMS}, expected one: all loads of one packing, whole")
    ((text, path),) = sums.items()
    lines = [LINE.fullmatch(line) for line in text.splitlines()]
    expected = {line[2]: line[1] for line in lines if line}
    if not expected or not all(lines):
        raise DataError(f"{path}: damaged, send {path.parent.name} again")
    if missing := [name for name in expected if not (loads / name).is_file()]:
        raise DataError(f"{loads / missing[0]}: missing, {len(missing)} of {len(expected)} parts are; send their loads")

    def decompressed(name: str) -> bytes:
        data = (loads / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != expected[name]:
            raise DataError(f"{loads / name}: damaged ({len(data)} bytes), send {name.partition('/')[0]} again")
        return DECOMPRESS[name[-2:]](data)

    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as temporary, TemporaryFile(dir=temporary) as stream:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for data in pool.map(decompressed, expected):
                stream.write(data)
        stream.seek(0)
        new, old = Path(temporary, "new"), Path(temporary, "old")
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            archive.extractall(new, filter="data")
        old.mkdir()
        target.mkdir(exist_ok=True)
        for found in list(new.iterdir()):
            if (target / found.name).exists():
                (target / found.name).rename(old / found.name)
            found.rename(target / found.name)
