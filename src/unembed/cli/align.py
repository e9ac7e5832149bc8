"""`unembed align`: an aligner, from texts with another encoder's vectors."""

import json
import sys
from itertools import chain
from pathlib import Path

import click

from unembed.cli.command_group import say
from unembed.cli.options import DEVICES, REMOTE, TEXT_FILES, device_of, option
from unembed.errors import InputError


@click.command()
@option("--pairs", None, f"Texts with vectors, in the columns text and embedding: {TEXT_FILES}.", metavar="FILE")
@option("--texts", None, "Texts that the other encoder embeds, in the place of --pairs.", metavar="FILE")
@option("--encoder", None, "The other encoder: a known name, folder or Hub id; with --pairs any name.", metavar="NAME")
@option("--encoder-url", None, f"{REMOTE} Its key is read from UNEMBED_API_KEY.", metavar="URL")
@option("--dimension", None, "Of the vectors that --encoder-url gives.", type=click.IntRange(min=1))
@option("--model", None, "Packaged name, folder, .pt file or Hub id.  [default: the packaged inverter]", metavar="NAME")
@option("-o --output", None, "Folder of the aligner.", metavar="DIR", required=True)
@option("--limit", 8000, "Pairs at most.", type=click.IntRange(min=8))
@option("--seed", 0, "Decides which pairs are held out.", type=click.IntRange(min=0))
@option("--device", "auto", DEVICES, metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def align(
    pairs: str | None, texts: str | None, encoder: str | None, encoder_url: str | None, dimension: int | None,
    model: str | None, output: str, limit: int, seed: int, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Fit a map from another encoder's vectors into an inverter's space.

    `unembed invert --aligner DIR` then recovers text from them. A few hundred pairs of text and vector are enough to
    tell the topic, some thousand tell names. With --texts the pairs are made by asking the encoder.
    """
    if (pairs is None) == (texts is None):
        raise InputError("expected either --pairs or --texts")
    if texts is not None and encoder is None and encoder_url is None:
        raise InputError("--texts need an encoder to embed them, expected --encoder or --encoder-url")
    from unembed.cli.terminal import working
    from unembed.corpus.sources import find_sources, read_texts

    sources = find_sources([pairs or texts or ""])
    bars = sys.stderr.isatty()
    with working("loading"):
        from unembed.config import Recipe
        from unembed.encoders.encoder import Encoder, load_encoder
        from unembed.encoders.recipes import RECIPES
        from unembed.inverter import Inverter
        from unembed.training.align import align as fit
        from unembed.training.align import asked_pairs, read_pairs

        where = device_of(device)
        inverter = Inverter.from_pretrained(model, where)
    recipe: Recipe | str = encoder or "unknown"
    if texts is not None:
        if encoder_url is not None:
            from unembed.encoders.remote import RemoteEncoder

            if dimension is None:
                raise InputError("--encoder-url needs --dimension: how many numbers an embedding has")
            remote = RemoteEncoder(encoder_url, Recipe(encoder or "unknown", dimension), inverter.tokenizer, encoder)
            remote.probe()
            asked: Encoder = remote
        else:
            with working("loading the encoder"):
                asked = load_encoder(encoder or "", where)
        found, recipe = asked_pairs(read_texts(texts), asked, limit, bars), asked.recipe
    else:
        found = read_pairs(chain.from_iterable(one.pairs() for one in sources), limit, str(pairs))
        if encoder in RECIPES:
            recipe = RECIPES[encoder]
        elif encoder is not None and Path(encoder).is_dir():
            recipe = load_encoder(encoder, where).recipe
    if found.skipped:
        say(f"note: {found.skipped:,} rows without a text or a vector are left out")
    aligner = fit(inverter, found, recipe, seed=seed, show_progress_bar=bars)
    aligner.save(output)
    about = dict(aligner.about)
    if as_json:
        click.echo(json.dumps({"output": output, "encoder": aligner.source.encoder} | about))
        return
    click.echo(f"{about['pairs']:,} pairs of {aligner.source.encoder} -> {output}")
    low, high = about["cosine"]["interval"]
    click.echo(f"held out: cosine {about['cosine']['value']:.3f} [{low:.3f}, {high:.3f}] to the true vectors,")
    if "token_f1" in about:
        low, high = about["token_f1"]["interval"]
        f1 = about["token_f1"]["value"]
        click.echo(f"token F1 {f1:.3f} [{low:.3f}, {high:.3f}] of {about['recovered']} texts, blind")
