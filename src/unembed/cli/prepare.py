"""`unembed prepare`: corpora to token shards."""

import sys

import click

from unembed.cli.command_group import CONTINUE, GreedyCommand
from unembed.cli.options import TEXT_FILES, option


@click.command(cls=GreedyCommand)
@click.argument("config")
@option("--texts", None, f"Files ({TEXT_FILES}) or folders.", metavar="PATH...", required=True, multiple=True)
@option("-o --output", None, "Folder for the shards.", metavar="DIR", required=True)
@option("--limit", None, "Rows read of each source at most.", type=click.IntRange(min=1))
@option("--seed", 0, "Order of the held-out texts.", type=click.IntRange(min=0))
@click.pass_context
def prepare(ctx: click.Context, config: str, texts: tuple[str, ...], output: str, limit: int | None, seed: int) -> None:
    """Turn corpora into token shards for training, by the YAML file CONFIG.

    Sources are read as streams, duplicates are dropped, and a share of the texts is held out. The same command, given
    again, goes on where an interrupted one stopped.
    """
    from unembed.config import load_config

    settings = load_config(config)
    from unembed.cli.terminal import console, show_manifest, working

    with working("loading the encoder"):
        from unembed.corpus.prepare import prepare as write_shards
        from unembed.encoders.encoder import load_encoder

        encoder = load_encoder(settings.encoder)
    ctx.meta[CONTINUE] = "; the same command again goes on where it stopped"
    show_manifest(console(), write_shards(settings, texts, output, encoder, seed, sys.stderr.isatty(), limit))
