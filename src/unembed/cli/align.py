"""`unembed align`: an aligner, from texts with another encoder's vectors, from the encoder, or from vectors alone."""

import json
import sys
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.command_group import say
from unembed.cli.options import DEVICES, REMOTE, TEXT_FILES, option, remote_encoder
from unembed.denoiser.devices import device_of
from unembed.errors import InputError

WORDS = 30_000  # as many as the packaged inverter's tokenizer has
FEWEST = 8  # of words, or pairs

if TYPE_CHECKING:
    from unembed.config import Recipe
    from unembed.encoders.encoder import Encoder
    from unembed.inverter import Inverter


@click.command()
@option("--pairs", None, f"Texts with vectors, in the columns text and embedding: {TEXT_FILES}.", metavar="FILE")
@option(
    "--texts",
    None,
    "Texts that the other encoder embeds; with --vectors or --pairs, others of the kind.",
    metavar="FILE",
)
@option("--vectors", None, "The other encoder's vectors, of texts that nobody has.", metavar="FILE")
@option("--encoder", None, "The other encoder: a known name, folder or Hub id; any name if not asked.", metavar="NAME")
@option("--encoder-url", None, f"{REMOTE} Its key is read from UNEMBED_API_KEY.", metavar="URL")
@option("--dimension", None, "Numbers in a vector of --encoder-url.", type=click.IntRange(min=1))
@option("--model", None, "Packaged name, folder, .pt file or Hub id.  [default: the packaged inverter]", metavar="NAME")
@option("-o --output", None, "Folder of the aligner.", metavar="DIR", required=True)
@option(
    "--words",
    None,
    "Single words that the other encoder is asked about too, the most frequent first.  [default: with --texts and "
    "--encoder 30000, else 0]",
    type=click.IntRange(min=0),
)
@option("--limit", 8000, "Pairs, or vectors and texts each, at most.", type=click.IntRange(min=FEWEST))
@option("--seed", 0, "Decides which pairs are held out.", type=click.IntRange(min=0))
@option("--device", "auto", DEVICES, metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def align(
    pairs: str | None, texts: str | None, vectors: str | None, encoder: str | None, encoder_url: str | None,
    dimension: int | None, model: str | None, output: str, words: int | None, limit: int, seed: int, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Fit a map from another encoder's vectors into an inverter's space; `unembed invert --aligner DIR` uses it.

    It takes --pairs of text and vector, such as a store has; or --texts and an encoder to ask; or, without any pair,
    --vectors and --texts, some thousand of each. Beside --pairs --texts are others of the kind, which help where pairs
    are few, as single words do even more.
    """
    if texts is None and (pairs is None or vectors is not None):
        raise InputError("expected --pairs, or --texts with --encoder or --encoder-url, or --vectors with --texts")
    if pairs is not None and vectors is not None:
        raise InputError("--vectors are for where there are no --pairs, expected one of the two")
    if texts is not None and pairs is None and vectors is None and encoder is None and encoder_url is None:
        raise InputError("--texts need vectors: expected --encoder or --encoder-url that gives them, or --vectors")
    if encoder_url is not None and (vectors is not None or pairs is not None):
        raise InputError("--encoder-url is for --texts, expected neither --pairs nor --vectors")
    if words and (vectors is not None or (encoder is None and encoder_url is None)):
        raise InputError("--words are asked of --encoder or --encoder-url, beside --pairs or --texts")
    if words is not None and 0 < words < FEWEST:
        raise InputError(f"--words is {words}, expected 0, or at least {FEWEST}")
    if encoder_url is not None and dimension is None:
        raise InputError("--encoder-url needs --dimension: how many numbers a vector has")
    from unembed.cli.terminal import working
    from unembed.corpus.sources import find_sources, read_texts

    sources = find_sources([pairs or texts or ""])
    bars = sys.stderr.isatty()
    with working("loading"):
        from unembed.inverter import Inverter
        from unembed.training import align as fits

        where = device_of(device)
        inverter = Inverter.from_pretrained(model, where)
    if vectors is not None:
        found = _vectors(vectors, limit)
        several = list(islice(read_texts(str(texts)), limit))
        recipe = _named(encoder, found, where)
        aligner = fits.align_unpaired(inverter, found, several, recipe, seed=seed, show_progress_bar=bars)
    else:
        more: list[str] = []
        asked: Encoder | None = None
        if pairs is None:
            asked = _asked(inverter, encoder, encoder_url, dimension, where)
            words = WORDS if words is None and encoder_url is None else words
            read, recipe = fits.asked_pairs(read_texts(str(texts)), asked, limit, bars), asked.recipe
        else:
            read = fits.read_pairs(chain.from_iterable(one.pairs() for one in sources), limit, str(pairs))
            recipe = _named(encoder, read.vectors, where)
            more = list(islice(filter(str.strip, read_texts(texts)), fits.MEANS)) if texts is not None else []
            if words:
                asked = _asked(inverter, encoder, None, None, where)
        if read.skipped:
            say(f"note: {read.skipped:,} rows without a text or a vector are left out")
        alone = fits.asked_words(inverter, asked, words, bars) if asked is not None and words else None
        aligner = fits.align(inverter, read, recipe, words=alone, more_texts=more, seed=seed, show_progress_bar=bars)
    aligner.save(output)
    about = dict(aligner.about)
    if as_json:
        click.echo(json.dumps({"output": output, "encoder": aligner.source.encoder} | about))
        return
    made = f"{about['pairs']:,} pairs" if about["pairs"] else f"{about['vectors']:,} vectors, no pairs,"
    made += f" and {about['words']:,} words" if about.get("words") else ""
    click.echo(f"{made} of {aligner.source.encoder} -> {output}")
    for name, text in (("cosine", "cosine to the true vectors"), ("token_f1", "token F1 of recovered texts, blind")):
        if name in about:
            low, high = about[name]["interval"]
            click.echo(f"held out: {about[name]['value']:.3f} [{low:.3f}, {high:.3f}] {text}")


def _vectors(file: str, limit: int) -> Any:
    """The first good rows of a file, (n, S) float32. Raises DataError."""
    import numpy as np

    from unembed.encoders.embedding_files import open_vectors
    from unembed.errors import DataError

    rows: list[Any] = []
    for _, batch in open_vectors(file, None).batches(1024):
        found = np.asarray(batch, np.float32)
        rows += list(found[np.isfinite(found).all(1) & found.any(1)])
        if len(rows) >= limit:
            break
    if not rows:
        raise DataError(f"{file}: holds no vectors")
    return np.stack(rows[:limit])


def _asked(
    inverter: "Inverter", name: str | None, url: str | None, dimension: int | None, device: str
) -> "Encoder":  # fmt: skip
    """The encoder that makes pairs."""
    from unembed.config import Recipe
    from unembed.encoders.encoder import load_encoder

    if url is None:
        return load_encoder(name or "", device)
    return remote_encoder(url, Recipe(name or "unknown", dimension or 1), inverter.tokenizer, name)


def _named(name: str | None, vectors: Any, device: str) -> "Recipe | str":
    """The recipe of an encoder that the user has named, or else what its vectors look like."""
    from unembed.encoders.encoder import load_encoder
    from unembed.encoders.recipes import RECIPES
    from unembed.training.align import name_of

    if name is None:
        found, why = name_of(vectors)
        say(f"note: {why}")
        return found
    if name in RECIPES:
        return RECIPES[name]
    return load_encoder(name, device).recipe if Path(name).is_dir() else name
