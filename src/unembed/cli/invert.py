"""`unembed invert`: embeddings to text, and text to its embedding and back."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.command_group import CONTINUE, say
from unembed.cli.options import Plan, check_ending, content, decoding_options, load_inverter, option, room_of
from unembed.errors import InputError, printable

if TYPE_CHECKING:
    from unembed.encoders.embedding_files import Vectors
    from unembed.inverter import Inverter


EMBEDDINGS = "A file or folder: .npy, .parquet, .feather, .jsonl, .json, .csv, .safetensors, .fvecs; - reads stdin."


@click.command()
@click.argument("text", nargs=-1)
@option("--embeddings", None, EMBEDDINGS, metavar="FILE")
@option("--column", None, "Column of the embeddings, such as vector.text; else one that is called so.", metavar="NAME")
@option("--id-column", None, "Column of ids, copied into the results; else one that is called so.", metavar="NAME")
@option("--keep", None, "Another column to copy into the results; repeatable.", metavar="NAME", multiple=True)
@decoding_options
@option("-o --output", None, "Write a JSON line per row; goes on if it was interrupted.", metavar="FILE.jsonl")
@click.option("--overwrite", is_flag=True, help="Start --output anew instead of going on.")
@click.option("--normalize", is_flag=True, help="Scale embeddings to length 1 first; int8 and packed bits are read so.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows that are no embeddings; the output says which and why.")
@click.option("--no-cosine", is_flag=True, help="Report no cosines; up to 16 texts are still embedded, to warn.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def invert(
    ctx: click.Context, /, text: tuple[str, ...], embeddings: str | None, column: str | None, id_column: str | None,
    keep: tuple[str, ...], batch_size: int, output: str | None, overwrite: bool, normalize: bool, skip_bad: bool,
    no_cosine: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Recover text from embeddings.

    With TEXT it is a round trip: the text is embedded, and recovered from its embedding. A terminal shows the
    denoising pass by pass.

    Blind inversion asks no encoder. Guided inversion (--seconds, --max-calls or both) searches until the text is exact
    or what it may spend is spent; a terminal shows the best text so far whenever it changes.

    With --embeddings and -o a file of any size is inverted. The same command, given again, goes on where an
    interrupted one stopped, with the same results.
    """
    if bool(text) == (embeddings is not None):
        raise InputError("expected either TEXT or --embeddings FILE (- for standard input)")
    if text and (id_column or keep):
        raise InputError("--id-column and --keep name columns of --embeddings FILE, found TEXT")
    check_ending(output, ".jsonl")
    from unembed.cli.terminal import working

    with working("loading"):
        from unembed.encoders.embedding_files import open_vectors, scan

        vectors = None if embeddings is None else open_vectors(embeddings, column, id_column, keep)
        inverter = load_inverter(options)
        plan = Plan(*inverter.plan(**options), not no_cosine, batch_size, normalize, skip_bad)
    if vectors is None:
        _round_trip(inverter, text, plan, output, as_json)
        return
    bars = sys.stderr.isatty()
    vectors = replace(vectors, dimension=inverter.recipe.dimension)
    scanned = scan(vectors, inverter.recipe, bars, normalize, skip_bad)
    if scanned.bad:
        say(f"note: {scanned.bad:,} of {scanned.rows:,} rows are no embeddings and are left out")
    if output is None:
        _print_inversions(inverter, vectors, plan, as_json)
        return
    from unembed.cli.bulk import invert_file

    how = "without --overwrite" if overwrite else "again"
    ctx.meta[CONTINUE] = f"; the same command {how} goes on from the rows in {output}.part"
    done = invert_file(
        inverter, vectors, scanned, Path(output), plan, overwrite=overwrite, show_progress_bar=bars
    )  # fmt: skip
    kept = f", {done['continued_from']:,} of them from before" if done["continued_from"] else ""
    click.echo(json.dumps(done) if as_json else f"{done['rows']:,} rows -> {output}{kept}")


def _print_inversions(inverter: "Inverter", vectors: "Vectors", plan: Plan, as_json: bool) -> None:
    """Every row to standard output: a table in a terminal, else one text a line, or one JSON object."""
    from unembed.cli.bulk import record
    from unembed.cli.terminal import console, show_inversions

    out = console()
    if vectors.keep and not as_json and not out.is_terminal:
        say("note: plain output is texts alone; --json and -o have the kept columns, too")
    results: list[dict[str, Any]] = []
    for start, batch, labels in vectors.labelled(plan.rows_at_once):
        found = plan.invert_rows(inverter, vectors, batch, start)
        if as_json:
            results += map(record, found, itertools.count(start), labels)
        elif out.is_terminal:
            show_inversions(out, found, start, labels)
        else:
            click.echo("\n".join(printable(inversion.text) for inversion in found))  # a row that is left out is empty
    if as_json:
        click.echo(json.dumps({"encoder": inverter.recipe.encoder, "options": plan.options, "results": results}))


def _round_trip(inverter: "Inverter", texts: Sequence[str], plan: Plan, output: str | None, as_json: bool) -> None:
    """Texts to embeddings and back, beside each other."""
    from unembed.cli.bulk import line, record
    from unembed.cli.terminal import console, count_hits, plain_round_trip, show_inverting, show_round_trip, working
    from unembed.files.atomic import atomic_file

    truths, room = content(texts, inverter), room_of(inverter)
    for number, truth in enumerate(truths, 1):
        if len(truth) > inverter.length:
            unread = f"; the encoder reads the first {room:,}" if len(truth) > room else ""
            say(f"note: text {number} has {len(truth):,} tokens, of which at most {inverter.length} come back{unread}")
    with working("embedding"):
        embeddings = inverter.encode(texts)
    out = console()
    if out.is_terminal and output is None and not as_json:
        for row, (text, truth) in enumerate(zip(texts, truths, strict=True)):
            inversion, seconds = show_inverting(out, inverter, embeddings[row], plan, row)
            show_round_trip(out, inverter.tokenizer, text, inversion, truth, seconds)
        return
    found = plan.invert(inverter, embeddings)
    if output is not None:
        with atomic_file(output) as temporary:
            temporary.write_bytes(b"".join(line(inversion, row) for row, inversion in enumerate(found)))
    results = []
    for row, (text, truth, inversion) in enumerate(zip(texts, truths, found, strict=True)):
        hits = count_hits(inverter.tokenizer, inversion, truth)
        if as_json:
            results.append({"original": text, "token_accuracy": hits / len(truth)} | record(inversion, row))
        elif output is None:
            click.echo("\n" * bool(row) + plain_round_trip(text, inversion, hits, len(truth)))
    if as_json:
        click.echo(json.dumps({"encoder": inverter.recipe.encoder, "options": plan.options, "results": results}))
    elif output is not None:
        click.echo(f"{len(found):,} rows -> {output}")
