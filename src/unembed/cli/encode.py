"""`unembed encode`: text to embeddings."""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from unembed.cli.command_group import say
from unembed.cli.options import DEVICES, ENCODER, TEXT_FILES, check_ending, content, device_of, option, room_of
from unembed.errors import DataError, InputError

CHUNK = 1024  # texts embedded between two writes


@click.command()
@click.argument("text", nargs=-1)
@option("--texts", None, f"Texts to embed: {TEXT_FILES}.", metavar="FILE")
@option("-o --output", None, "Write a float32 array (n, d); without it, JSON lines are printed.", metavar="FILE.npy")
@option("--encoder", ENCODER, "Known name, local folder or Hub id.", metavar="NAME")
@option("--batch-size", 32, "Texts embedded at once.", type=click.IntRange(min=1))
@option("--device", "auto", DEVICES, metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def encode(
    text: tuple[str, ...], texts: str | None, output: str | None, encoder: str, batch_size: int, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Embed TEXT, or the texts of a file, with a frozen encoder.

    What is printed without -o is what `unembed invert --embeddings -` reads.
    """
    if bool(text) == (texts is not None):
        raise InputError("expected either TEXT or --texts FILE")
    check_ending(output, ".npy")
    from unembed.cli.terminal import working
    from unembed.corpus.sources import find_sources, read_texts

    if texts is not None:
        find_sources([texts])
    with working("loading the encoder"):
        from tqdm import tqdm

        from unembed.encoders.embedding_files import write_npy
        from unembed.encoders.encoder import load_encoder

        loaded = load_encoder(encoder, device_of(device))
    room, cut = room_of(loaded), 0

    def batches() -> Iterator[tuple[list[str], Any]]:
        nonlocal cut
        rest, first = iter(text) if texts is None else read_texts(texts), 1
        with tqdm(desc="encode", unit=" texts", disable=texts is None or not sys.stderr.isatty()) as bar:
            while batch := list(itertools.islice(rest, CHUNK)):
                cut += sum(len(ids) > room for ids in content(batch, loaded, first, texts))
                yield batch, loaded.encode(batch, batch_size)
                first += len(batch)
                bar.update(len(batch))
        if first == 1:
            raise DataError(f"{texts}: is empty, expected texts")

    tree: dict[str, Any] = {"encoder": loaded.recipe.encoder, "dimension": loaded.recipe.dimension}
    if output is not None:
        n = write_npy(output, (rows for _, rows in batches()), loaded.recipe.dimension)
        done = f"{n:,} embeddings of {loaded.recipe.dimension} dimensions -> {output}"
        click.echo(json.dumps(tree | {"texts": n, "output": output}) if as_json else done)
    elif as_json:
        click.echo(json.dumps(tree | {"embeddings": [row for _, rows in batches() for row in _floats(rows)]}))
    else:
        for batch, rows in batches():
            for one, row in zip(batch, _floats(rows), strict=True):
                click.echo(json.dumps({"text": one, "embedding": row}))
    if cut:
        say(f"note: {cut:,} of the texts go on past the {room} tokens that the encoder reads")


def _floats(rows: Any) -> Iterator[list[float]]:
    """Rows as the shortest decimals that give the same float32 back."""
    return ([float(str(value)) for value in row] for row in rows)
