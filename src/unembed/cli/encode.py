"""`unembed encode`: text to embeddings."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.command_group import say
from unembed.cli.options import DEVICES, ENCODER, TEXT_FILES, check_ending, option, room_of
from unembed.denoiser.devices import device_of
from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.encoders.texts import CheckedTexts


@click.command()
@click.argument("text", nargs=-1)
@option("--texts", None, f"Texts to embed: {TEXT_FILES}.", metavar="FILE")
@option("-o --output", None, "Write a float32 array (n, d); without it, JSON lines are printed.", metavar="FILE.npy")
@option("--encoder", ENCODER, "Known name, local folder or Hub id.", metavar="NAME")
@option("--batch-size", 32, "Texts embedded at once.", type=click.IntRange(min=1))
@option("--device", "auto", DEVICES, metavar="NAME")
@click.option("--skip-bad", is_flag=True, help="Leave out rows that are no texts; the output says which and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def encode(
    text: tuple[str, ...], texts: str | None, output: str | None, encoder: str, batch_size: int, device: str,
    skip_bad: bool, as_json: bool,
) -> None:  # fmt: skip
    """Embed TEXT, or the texts of a file, with a frozen encoder.

    All texts are checked before the first is embedded. What is printed without -o is read by `unembed invert
    --embeddings -`.

    With --skip-bad rows keep their numbers: a bad one is a line with `skipped` and no embedding, null with --json, and
    a row of NaN in FILE.npy.
    """
    if bool(text) == (texts is not None):
        raise InputError("expected either TEXT or --texts FILE")
    check_ending(output, ".npy")
    from unembed.cli.terminal import working
    from unembed.corpus.sources import find_sources, read_values

    if texts is not None:
        find_sources([texts])
    with working("loading the encoder"):
        import numpy as np
        from tqdm import tqdm

        from unembed.encoders.embedding_files import write_npy
        from unembed.encoders.encoder import load_encoder
        from unembed.encoders.texts import TextScan, check_texts, chunks

        loaded = load_encoder(encoder, device_of(device))
    room, cut, dimension = room_of(loaded), 0, loaded.recipe.dimension
    bars = texts is not None and sys.stderr.isatty()

    def checked(what: str) -> "Iterator[tuple[list[Any], CheckedTexts]]":
        with tqdm(desc=what, unit=" texts", leave=what == "encode", disable=not bars) as bar:
            for values in chunks(text if texts is None else read_values(texts)):
                yield values, check_texts(values, loaded.tokenizer)
                bar.update(len(values))

    scan = TextScan()
    for values, one in checked("check"):
        scan.add(len(values), one.bad)
        cut += sum(len(ids) > room for ids in one.ids)
    scan.check(texts or "TEXT", skip_bad)

    def batches() -> Iterator[tuple[list[Any], Any, dict[int, str]]]:
        """Values, embeddings (NaN of a bad one) and bad ones of each batch."""
        for values, one in checked("encode"):
            rows = np.full((len(values), dimension), np.nan, np.float32)
            if one.texts:
                rows[[place not in one.bad for place in range(len(values))]] = loaded.encode(one.texts, batch_size)
            yield values, rows, one.bad

    tree: dict[str, Any] = {"encoder": loaded.recipe.encoder, "dimension": dimension}
    if skip_bad:
        tree["skipped"] = scan.count
        tree["skipped_rows"] = [{"row": row, "skipped": why} for row, why in scan.bad.items()]
    if output is not None:
        n = write_npy(output, (rows for _, rows, _ in batches()), dimension)
        done = f"{n - scan.count:,} embeddings of {dimension} dimensions -> {output}"
        click.echo(json.dumps(tree | {"texts": n, "output": output}) if as_json else done)
    elif as_json:
        click.echo(json.dumps(tree | {"embeddings": [line.get("embedding") for line in _lines(batches())]}))
    else:
        for line in _lines(batches()):
            click.echo(json.dumps(line))
    if scan.count:
        say(f"note: {scan.note()}" + (f"; NaN in {output}" if output is not None else ""))
    if cut:
        say(f"note: {cut:,} of the texts go on past the {room} tokens that the encoder reads")


def _lines(batches: Iterable[tuple[list[Any], Any, dict[int, str]]]) -> Iterator[dict[str, Any]]:
    """What is printed of each row; its numbers as the shortest decimals that give the same float32 back."""
    row = 0
    for values, embeddings, bad in batches:
        for place, (value, embedding) in enumerate(zip(values, embeddings, strict=True)):
            line = {"row": row, "text": value if isinstance(value, str) else None}
            row += 1
            if place in bad:
                yield line | {"skipped": bad[place]}
            else:
                yield line | {"embedding": [float(str(number)) for number in embedding]}
