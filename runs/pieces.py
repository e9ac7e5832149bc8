"""Files as pieces small enough for a transfer with a limit, and back.

All files become one tar stream, which is cut every few MiB; each piece is compressed on its own, so that many cores
share the work and a damaged piece is known by its name. Pieces lie in folders `load-01`, `load-02`, ..., each small
enough to be sent at once and each with the whole manifest, so that whoever holds some of them knows what is missing.

Standard library only, and of unembed only its errors and atomic folders: this runs before anything else is unpacked.
"""

import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from unembed.errors import DataError, InputError
from unembed.files.atomic import atomic_folder

MANIFEST = "pieces.json"
MIB = 1 << 20
FORMAT = 1


class Member(NamedTuple):
    """One file to pack: its place in the packing, and where its bytes are."""

    name: str
    source: Path | bytes


def tree(folder: Path, name: str | Path, skip: Sequence[str] = ()) -> Iterator[Member]:
    """All files below `folder`, placed below `name`; folders called as in `skip` are left out."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not set(inside.parts) & {"__pycache__", *skip}:
            yield Member((Path(name) / inside).as_posix(), path)


def write_pieces(
    members: Iterable[Member],
    out: Path,
    *,
    piece_mib: int = 15,
    load_mib: int = 60,
    load_files: int = 8,
    preset: int = 6,
) -> dict[str, Any]:
    """Write the members as loads of pieces; the folder `out` appears whole or not at all.

    Args:
        piece_mib: size of a piece before compression; incompressible bytes grow by less than 0.1 %.
        load_mib, load_files: what one load holds at most, manifest included.
        preset: of xz, 0 (fast) to 9.

    Returns:
        The manifest.

    Raises:
        OutputError: `out` cannot be written.
    """
    size = piece_mib * MIB
    with atomic_folder(out) as temporary, TemporaryFile(dir=temporary.parent) as stream:
        count = _tar(members, stream)
        total = stream.tell()
        pieces: list[dict[str, Any]] = []
        load, held, files = 1, 0, 0
        for number, (raw, packed) in enumerate(_packed(stream, total, size, preset)):
            name = f"piece-{number:04d}.xz"
            # One file and a few kB of each load are the manifest's.
            if files and (held + len(packed) > load_mib * MIB - 65536 or files + 1 > load_files - 1):
                load, held, files = load + 1, 0, 0
            folder = temporary / f"load-{load:02d}"
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(packed)
            held, files = held + len(packed), files + 1
            digest = hashlib.sha256(packed).hexdigest()
            pieces.append({"name": name, "load": load, "bytes": len(packed), "raw": raw, "sha256": digest})
        manifest = {"format": FORMAT, "files": count, "bytes": total, "piece": size, "pieces": pieces}
        for folder in temporary.iterdir():
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def read_pieces(sources: Sequence[Path], target: Path) -> dict[str, Any]:
    """Verify the pieces found below `sources` and unpack them as the new folder `target`, whole or not at all.

    Returns:
        The manifest.

    Raises:
        InputError: `target` exists already.
        DataError: there is no manifest, pieces of two packings are mixed, or a piece is missing or damaged.
        OutputError: `target` cannot be written.
    """
    if target.exists():
        raise InputError(f"{target}: exists already, expected a new folder")
    manifest = _manifest(sources)
    found: dict[str, list[Path]] = {}
    for source in sources:
        for path in sorted(source.rglob("piece-*.xz")):
            found.setdefault(path.name, []).append(path)
    missing = [piece for piece in manifest["pieces"] if piece["name"] not in found]
    if missing:
        names = ", ".join(f"load-{piece['load']:02d}/{piece['name']}" for piece in missing[:8])
        raise DataError(f"{len(missing)} of {len(manifest['pieces'])} pieces are missing: {names}")

    def raw(piece: dict[str, Any]) -> bytes:
        for path in found[piece["name"]]:  # the same piece may have been sent twice
            packed = path.read_bytes()
            if hashlib.sha256(packed).hexdigest() == piece["sha256"]:
                return lzma.decompress(packed)
        raise DataError(
            f"{found[piece['name']][0]}: damaged ({len(packed)} bytes, expected {piece['bytes']}), send it again"
        )

    with atomic_folder(target) as temporary, TemporaryFile(dir=temporary.parent) as stream:
        for part in _in_order(raw, manifest["pieces"]):
            stream.write(part)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            archive.extractall(temporary, filter="data")
    return manifest


def _tar(members: Iterable[Member], stream: IO[bytes]) -> int:
    """Write a tar that depends on names and bytes alone; returns how many files it holds."""
    count = 0
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, source in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            if isinstance(source, bytes):
                info.size = len(source)
                archive.addfile(info, io.BytesIO(source))
            else:
                with source.open("rb") as file:
                    info.size = os.fstat(file.fileno()).st_size
                    archive.addfile(info, file)
            count += 1
    return count


def _packed(stream: IO[bytes], total: int, size: int, preset: int) -> Iterator[tuple[int, bytes]]:
    """Length before compression and the compressed bytes of each piece, in order."""

    def pack(start: int) -> tuple[int, bytes]:
        part = os.pread(stream.fileno(), size, start)
        return len(part), lzma.compress(part, preset=preset)

    stream.flush()
    yield from _in_order(pack, range(0, total, size))


def _in_order(function: Any, items: Iterable[Any]) -> Iterator[Any]:
    """`map` over a few threads, holding no more than a few results; xz works outside of the interpreter's lock."""
    workers = os.cpu_count() or 1
    rest = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(function, item) for item in islice(rest, 2 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in islice(rest, 1)]


def _manifest(sources: Sequence[Path]) -> dict[str, Any]:
    """The one manifest of all loads. Raises DataError."""
    known: dict[str, Path] = {}
    for source in sources:
        for path in sorted(source.rglob(MANIFEST)):
            known.setdefault(path.read_text(encoding="utf-8", errors="replace"), path)
    if not known:
        raise DataError(f"{', '.join(map(str, sources))}: no {MANIFEST}, expected folders called load-01, load-02, ...")
    if len(known) > 1:
        one, other = list(known.values())[:2]
        raise DataError(f"{one} and {other} differ: pieces of two packings are mixed")
    ((text, path),) = known.items()
    try:
        manifest: dict[str, Any] = json.loads(text)
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged, send it again ({type(error).__name__}: {error})") from error
    if version != FORMAT:
        raise DataError(f"{path}: format {version}, expected {FORMAT}")
    return manifest
