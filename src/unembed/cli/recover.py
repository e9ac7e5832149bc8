"""`unembed recover`: the texts of a store that lost them and kept its vectors."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.command_group import CONTINUE, say
from unembed.cli.options import Plan, check_ending, decoding_options, load_inverter, option
from unembed.errors import InputError, printable
from unembed.tables.table import Batch, Table

if TYPE_CHECKING:
    from unembed.encoders.embedding_files import Vectors
    from unembed.stores.store import Store

COLUMNS = ("id", "vector")


@click.command()
@click.argument("store")
@option("-o --output", None, "A JSON line a row; goes on if interrupted.", metavar="FILE.jsonl", required=True)
@decoding_options
@click.option("--overwrite", is_flag=True, help="Start --output anew instead of going on.")
@click.option("--no-cosine", is_flag=True, help="Report no cosines; up to 16 texts are still embedded, to warn.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def recover(
    ctx: click.Context, /, store: str, output: str, overwrite: bool, no_cosine: bool, batch_size: int, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Recover a text from every vector of a STORE, for who lost the texts and kept the vectors.

    A STORE is a path, or KIND:LOCATION, with #COLLECTION for one of its collections. Ids of the store are kept, lengths
    of vectors do not matter, and rows that hold no vector are left out and say why. A recovered text is a guess with a
    confidence: the nearer its cosine is to 1, the nearer it is to what was lost.

    The same command, given again, goes on where an interrupted one stopped. --seconds N searches for each row.
    --aligner DIR reads the vectors of another encoder.
    """
    check_ending(output, ".jsonl")
    from unembed.audit.collections import collections
    from unembed.cli.terminal import working
    from unembed.stores.store import open_store

    opened, chosen = open_store(store)
    try:
        found = collections(opened, chosen)
        if len(found) > 1:
            names = ", ".join(printable(one.name)[:60] for one in found[:8])
            raise InputError(f"{printable(store)}: has {len(found)} collections, choose one with #NAME: {names}")
        with working("loading"):
            from unembed.audit.which_encoder import is_own
            from unembed.cli.bulk import invert_file
            from unembed.encoders.embedding_files import scan

            inverter = load_inverter(options)
            plan = Plan(*inverter.plan(**options), not no_cosine, batch_size, normalize=True, skip_bad=True)
        if found[0].encoder and inverter.aligner is None and not is_own(found[0].encoder, inverter):
            said, own = printable(found[0].encoder)[:100], inverter.recipe.encoder
            say(
                f"note: the store names the encoder {said}, this inverter is for {own}: `unembed align` fits an aligner"
            )
        vectors = stored(opened, found[0].name, inverter.recipe.dimension)
        bars = sys.stderr.isatty()
        scanned = scan(vectors, inverter.recipe, bars, normalize=True, skip_bad=True)
        for line in opened.notes:
            say(f"note: {line}")
        if scanned.bad:
            say(f"note: {scanned.bad:,} of {scanned.rows:,} rows are no embeddings and are left out")
        how = "without --overwrite" if overwrite else "again"
        ctx.meta[CONTINUE] = f"; the same command {how} goes on from the rows in {output}.part"
        done = invert_file(
            inverter, vectors, scanned, Path(output), plan, overwrite=overwrite, show_progress_bar=bars
        )  # fmt: skip
    finally:
        opened.close()
    kept = f", {done['continued_from']:,} of them from before" if done["continued_from"] else ""
    click.echo(json.dumps(done) if as_json else f"{done['rows']:,} rows -> {output}{kept}")


def stored(store: "Store", collection: str, dimension: int) -> "Vectors":
    """A collection's vectors with their ids, as files of embeddings are read."""
    from unembed.encoders.embedding_files import Vectors

    name = f"{printable(store.location)}#{printable(collection)}"
    table = Table(name, ((name, _Reader(store, collection)),))
    return Vectors(table, COLUMNS[1], dimension, id_column=COLUMNS[0])


@dataclass(frozen=True)
class _Reader:
    """A collection as a table's reader."""

    store: "Store"
    collection: str

    def names(self) -> list[str]:
        """Its columns."""
        return list(COLUMNS)

    def batches(self, columns: Sequence[str], start: int) -> Iterator[Batch]:
        """Batches from row `start` on."""
        first = 0
        for rows in self.store.rows(self.collection):
            values: dict[str, Any] = dict(zip(COLUMNS, (rows.ids, rows.vectors), strict=True))
            late = max(0, start - first)
            if late < len(rows):
                yield Batch(first + late, {column: values[column][late:] for column in columns})
            first += len(rows)
