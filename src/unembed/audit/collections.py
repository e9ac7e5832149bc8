"""Which collections a URI means."""

from dataclasses import dataclass

from unembed.errors import DataError, printable
from unembed.stores.store import Collection, Store

NAMED = 8  # collections that a message names


@dataclass(frozen=True)
class Place:
    """One collection of one store."""

    store: Store
    collection: Collection


def collections(store: Store, chosen: str) -> list[Collection]:
    """A store's collections, or the one that a URI chooses. Raises DataError: it has none, or none of that name."""
    found = store.collections()
    kept = [one for one in found if chosen in ("", one.name)]
    if not found:
        raise DataError(f"{printable(store.location)}: holds no collection of vectors")
    if not kept:
        names = ", ".join(printable(one.name)[:60] for one in found[:NAMED])
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise DataError(
            f"{printable(store.location)}: has no collection {printable(chosen)!r}, expected one of {names}{more}"
        )
    return kept
