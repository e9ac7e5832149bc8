"""Inversion of a file of any size: results as JSON lines, appended as they come, continued after a kill.

    OUTPUT.part         whole lines, one a row, in order; becomes OUTPUT when the last row is in it
    OUTPUT.state.json   what the lines were made from: the rows' hash, ids included, the inverter's, the options
    OUTPUT.journal      how far the guided inversions of the unfinished batch have come

Unusual here: the lines are their own journal. A run that goes on counts them, cuts a torn one, and drops those of an
unfinished batch, so that every row is inverted in the batch it would have been in: interrupted or not, the results
are the same. Lines of another input, inverter or options are never continued.

A guided inversion takes seconds or minutes a row and does not depend on the rows beside it. So each row is a batch of
its own, none of its lines are dropped, and the row in work goes on after the last round that it finished.
"""

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unembed.cli.options import Plan
from unembed.config import config_to_dict
from unembed.decoding.inversion import Inversion
from unembed.encoders.embedding_files import Label, Scan, Vectors
from unembed.errors import InputError
from unembed.files.atomic import atomic_file, fsync, output_errors
from unembed.inverter import Inverter
from unembed.storage.fingerprint import fingerprint

ENDING = ".jsonl"


def record(inversion: Inversion, row: int, label: Label | None = None) -> dict[str, Any]:
    """What a line of output says of one row, its id and what is kept of it first. Numbers are rounded."""
    begin = {"row": row} | (label or {})
    if inversion.skipped is not None:
        return begin | {"text": None, "skipped": inversion.skipped}
    tree: dict[str, Any] = begin | {
        "text": inversion.text,
        "cosine": _rounded(inversion.cosine),
        "tokens": inversion.tokens,
        "confidence": [round(value, 4) for value in inversion.confidence],
        "score": round(inversion.score, 6),
        "passes": inversion.passes,
        "encoder_calls": inversion.encoder_calls,
    }
    if inversion.seconds is not None:
        tree["seconds"] = round(inversion.seconds, 3)
        tree |= {"exact": inversion.exact, "plausible": inversion.plausible}
    if inversion.candidates:
        tree["candidates"] = [
            {"text": other.text, "cosine": _rounded(other.cosine), "score": round(other.score, 6)}
            for other in inversion.candidates
        ]
    return tree


def line(inversion: Inversion, row: int, label: Label | None = None) -> bytes:
    """`record` as one line of UTF-8."""
    return (json.dumps(record(inversion, row, label), ensure_ascii=False) + "\n").encode()


def invert_file(
    inverter: Inverter,
    vectors: Vectors,
    scan: Scan,
    output: Path,
    plan: Plan,
    *,
    overwrite: bool = False,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Invert every row into `output`, or go on where an earlier call stopped.

    Args:
        scan: of these vectors, by the inverter's recipe.
        output: a name ending in .jsonl.
        plan: its options decide the results. Batch size and device may change between calls.
        overwrite: forget what an earlier call wrote.

    Returns:
        `output`, `rows`, `skipped` (of these), `continued_from` (rows that were there already) and `seconds`.

    Raises:
        InputError: `output` or its unfinished part belongs to another input, inverter or other options, or
            another process is writing it.
        OutputError: it cannot be written. What is there can be continued.
    """
    part, state_file, journal = (output.with_name(output.name + end) for end in (".part", ".state.json", ".journal"))
    state = {
        "format": 1,
        "input": vectors.kept_columns | {"rows": scan.rows, "sha256": scan.sha256},
        "inverter": {
            "sha256": fingerprint(inverter.denoiser),
            "surrogate": fingerprint(inverter.surrogate) if inverter.surrogate else None,
            "tokenizer": inverter.tokenizer.fingerprint,
        }
        | ({"aligner": inverter.aligner.fingerprint} if inverter.aligner else {}),
        "recipe": config_to_dict(inverter.recipe),
        "options": plan.options,
    }
    with output_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        begun = output.exists() or (part.exists() and part.stat().st_size > 0)
    if begun and not overwrite:
        _check_same(output, state_file, state)
        if not part.exists():
            return _summary(output, scan, scan.rows, 0.0)
    started = time.perf_counter()
    with _locked(part, output) as file:
        if overwrite:
            shutil.rmtree(journal, ignore_errors=True)
        if overwrite or not begun:
            with output_errors(part):
                file.truncate(0)  # before the new state is written, so that old lines never stand beside it
            with atomic_file(state_file) as temporary:
                temporary.write_text(json.dumps(state, indent=1), encoding="utf-8")
        done, size = _finished_rows(part, scan.rows, plan.rows_at_once)
        with output_errors(part):
            file.truncate(size)
        with tqdm(
            total=scan.rows,
            initial=done,
            desc="invert",
            unit=" rows",
            dynamic_ncols=True,
            disable=not show_progress_bar,
        ) as bar:
            for start, batch, labels in vectors.labelled(plan.rows_at_once, done):
                found = plan.invert_rows(inverter, vectors, batch, start, journal)
                lines = b"".join(map(line, found, itertools.count(start), labels))
                with output_errors(part):
                    _append(file, lines)
                shutil.rmtree(journal, ignore_errors=True)
                bar.update(len(found))
        with output_errors(part):
            os.fsync(file.fileno())
    with output_errors(output):
        os.replace(part, output)
        fsync(output.parent)
    seconds = round(time.perf_counter() - started, 3)
    return _summary(output, scan, done, seconds)


def _summary(output: Path, scan: Scan, continued_from: int, seconds: float) -> dict[str, Any]:
    found = {"output": str(output), "rows": scan.rows, "skipped": scan.bad}
    return found | {"continued_from": continued_from, "seconds": seconds}


@contextmanager
def _locked(part: Path, output: Path) -> Iterator[FileIO]:
    """The part open for appending, by this process alone."""
    with output_errors(part):
        file = part.open("ab", buffering=0)  # nothing is left to be flushed when the disk is full
    with file:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            pass
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"{output}: is being written by another process") from error
        yield file


def _append(file: FileIO, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[file.write(rest) :]


def _check_same(output: Path, state_file: Path, state: dict[str, Any]) -> None:
    """Raise InputError unless what is there was made from the same rows, inverter and options."""
    advice = "choose another output, or --overwrite it"
    try:
        found = json.loads(state_file.read_text(encoding="utf-8"))
        sections = {name: dict(found[name]) for name in ("input", "inverter", "recipe", "options")}
    except FileNotFoundError as error:
        raise InputError(f"{output}: exists, and nothing says what it was made from; {advice}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{state_file}: cannot be read as what {output.name} was made from; {advice}") from error
    for section, values in sections.items():
        wanted = json.loads(json.dumps(state[section]))
        for key in sorted(wanted.keys() | values.keys()):
            old, new = values.get(key), wanted.get(key)
            if old != new:
                what = key if section == "options" else f"{section} {key}"
                raise InputError(f"{output}: was made with {what} {_short(old)}, this call has {_short(new)}; {advice}")


def _rounded(cosine: float | None) -> float | None:
    return None if cosine is None else round(cosine, 6)


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)


def _finished_rows(part: Path, rows: int, batch_size: int) -> tuple[int, int]:
    """How many rows stand in the part in whole lines of whole batches, and the bytes that they take."""
    count = offset = kept = kept_offset = 0
    kept_line = b""
    with part.open("rb") as file:
        for last in file:
            if not last.endswith(b"\n"):
                break
            count, offset = count + 1, offset + len(last)
            if count % batch_size == 0 or count == rows:
                kept, kept_offset, kept_line = count, offset, last
    try:
        fits = kept == 0 or (count <= rows and json.loads(kept_line)["row"] == kept - 1)
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise InputError(f"{part}: line {kept} is not row {kept - 1} of {rows}; --overwrite starts anew")
    return kept, kept_offset
