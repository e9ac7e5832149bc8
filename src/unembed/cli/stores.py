"""`unembed stores`: what is in a store."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.command_group import say
from unembed.errors import printable

if TYPE_CHECKING:
    from unembed.stores.store import Collection, Store

URI = "A store: a path, or KIND:LOCATION, with #COLLECTION for one of its collections."


@click.command()
@click.argument("store", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stores(store: tuple[str, ...], as_json: bool) -> None:
    """List the collections of a STORE: rows, dimension, number format, the encoder that it names, what it gives away.

    A STORE is a path, or KIND:LOCATION, with #COLLECTION for one of its collections. No row is read, and nothing is
    written to it.
    """
    from unembed.audit.collections import collections
    from unembed.stores.store import open_store

    listed = []
    for uri in store:
        opened, chosen = open_store(uri)
        try:
            found = collections(opened, chosen)
            notes = list(opened.notes)
        finally:
            opened.close()
        listed.append(_tree(opened, found, notes))
        if not as_json:
            _show(opened, found)
            for note in notes:
                say(f"note: {note}")
    if as_json:
        click.echo(json.dumps({"stores": listed}))


def _tree(store: "Store", found: "list[Collection]", notes: list[str]) -> dict[str, Any]:
    return {
        "kind": store.kind, "location": store.location, "notes": notes,
        "collections": [dataclasses.asdict(one) for one in found],
    }  # fmt: skip


def _show(store: "Store", found: "list[Collection]") -> None:
    """A line for the store, and of each collection a line of figures and one for each trace."""
    from unembed.audit.wording import numbered

    click.echo(f"{printable(store.location)} ({printable(store.kind)})")
    for one in found:
        click.echo(f"  {printable(one.name) or '(no name)'}: {_figures(one)}")
        for trace in one.traces:
            count = "" if trace.count is None else f" ({numbered(trace.count, 'row')})"
            where = f" [{printable(trace.where)}]" if trace.where else ""
            click.echo(f"    {printable(trace.kind)}: {printable(trace.detail)}{count}{where}")


def _figures(one: "Collection") -> str:
    from unembed.audit.wording import numbered

    parts = [
        "rows not counted" if one.rows is None else numbered(one.rows, "row"),
        "dimension not known" if one.dimension is None else numbered(one.dimension, "dimension"),
        printable(one.number) + (", approximate" if one.lossy else ""),
        f"metric {printable(one.metric)}" if one.metric else "",
        f"encoder {printable(one.encoder)}" if one.encoder else "no encoder named",
        "texts beside the vectors" if one.has_text else "no texts",
    ]
    return ", ".join(part for part in parts if part)
