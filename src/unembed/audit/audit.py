"""An audit of stores: every collection is sampled and attacked, and what came back is reported.

    report = audit(["chroma:./db", "vectors.npy"])

The report says what could not be read or attacked. Ctrl-C and a deadline end the work, not the report.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unembed.audit.collections import Place, collections
from unembed.audit.findings import Report
from unembed.audit.options import AuditOptions
from unembed.denoiser.devices import device_of
from unembed.errors import DataError, InputError, UnembedError, printable
from unembed.stores.store import Store, open_store, parse

if TYPE_CHECKING:
    from unembed.inverter import Inverter

Progress = Callable[[str, str, int, int | None], None]


def audit(
    uris: Sequence[str],
    options: AuditOptions | None = None,
    *,
    inverter: "Inverter | None" = None,
    output: Path | None = None,
    progress: Progress = lambda *_: None,
    opener: Callable[[str], tuple[Store, str]] | None = None,
) -> Report:
    """Audit stores.

    Args:
        uris: of stores or of their collections (`stores.store`).
        inverter: instead of loading `options.model`.
        output: folder in which an audit that is interrupted keeps how far it came. The same call goes on from there.
        progress: is told the collection, what is done with it (`read`, `random`, `rows`, `defences`), how
            many are done, and of how many, where that is known.
        opener: instead of `open_store`, for tests.

    Returns:
        The report. Its `about` says whether it was `interrupted`, whether the `deadline` came first, how many
        collections could not be audited (`failed`; `unread` says why), and what an address was asked for (`asked`).

    Raises:
        InputError: a URI, a collection or an option is wrong.
        UnembedError: no collection could be audited.
    """
    options = options or AuditOptions()
    started = time.monotonic()
    _check_output(uris, output)
    unread: list[str] = []
    with _stores(uris, opener or open_store, unread) as places:
        # Imported behind what may be wrong with the call, since torch takes seconds.
        from unembed.audit import journal
        from unembed.audit.running import Run
        from unembed.inverter import Inverter

        options = replace(options, device=device_of(options.device))
        if inverter is None:
            inverter = Inverter.from_pretrained(options.model, options.device)
        if options.encoder == inverter.recipe.encoder:
            inverter.encoder_named = True
        run = Run(inverter, options, output, progress, started)
        run.unread, run.failed = unread, len(unread)
        try:
            run.audit(places)
            report = run.report(places)
        finally:
            for remote in run.remotes:
                remote.close()
    if run.complete and output is not None:
        journal.remove(output)
    return report


def _check_output(uris: Sequence[str], output: Path | None) -> None:
    """Raises InputError: it is a file, or lies in a store, which is never written to."""
    if output is None:
        return
    if (there := next((one for one in (output, *output.parents) if one.exists()), None)) and not there.is_dir():
        raise InputError(f"{printable(str(output))}: {_which(there, output)} a file, expected a folder for the report")
    for uri in uris:
        location = Path(parse(uri).location)
        if location.is_dir() and output.resolve().is_relative_to(location.resolve()):
            raise InputError(
                f"{printable(str(output))}: lies in {printable(str(location))}, expected a folder elsewhere"
            )


def _which(there: Path, output: Path) -> str:
    return "is" if there == output else f"{printable(str(there))} is"


@contextmanager
def _stores(
    uris: Sequence[str], opener: Callable[[str], tuple[Store, str]], unread: list[str]
) -> Iterator[list[Place]]:
    """All collections that the URIs choose, each once; their stores are closed afterwards.

    Of several stores one that cannot be read is added to `unread`. Raises DataError, InputError, UnembedError.
    """
    if not uris:
        raise InputError("no store to audit, expected at least 1")
    opened: list[Store] = []
    try:
        places: dict[tuple[str, str, str], Place] = {}
        for number, uri in enumerate(uris):
            try:
                store, chosen = opener(uri)
                opened.append(store)
                for one in collections(store, chosen):
                    places.setdefault((store.kind, store.location, one.name), Place(store, one))
            except DataError as error:  # not of a path that there is not: the call was wrong
                if number == len(uris) - 1 and not places:
                    raise
                unread.append(str(error))
        yield list(places.values())
    finally:
        for store in opened:
            with suppress(UnembedError, OSError):
                store.close()
