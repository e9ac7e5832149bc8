"""The `unembed` command: what it can be asked, and which part of the library answers.

Unusual here: this file imports nothing heavy, and every command imports what it needs when it runs, so `--help`
answers at once. What can be refused is refused before a model is loaded or a file is written. Standard output
carries results only; notes, bars and errors go to standard error (see `commands`).
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed import __version__
from unembed.cli.commands import CONTINUE, Commands, GreedyCommand, say
from unembed.cli.serve import serve
from unembed.errors import DataError, InputError

if TYPE_CHECKING:
    from unembed.encoders.encoder import Encoder
    from unembed.encoders.vectors import Vectors
    from unembed.inverter import Inverter

ENCODER = "all-MiniLM-L6-v2"
STRATEGIES = "confidence, sequential, euler, remask, two-stage or threshold"
TEXT_FILES = ".txt (one a line), .jsonl or .parquet, also .zst or .gz; or a dataset id"
SAMPLING = "0 takes the likeliest token, more samples.  [default: 0, or 0.5 for several candidates]"
SECONDS = "Guided inversion: search each embedding's text for up to N seconds, with the encoder's help."
MAX_CALLS = "Guided inversion with a priced encoder: embed at most N texts per embedding."
REMOTE = "Ask the encoder behind this address, in the OpenAI shape, not a local one."
DEVICES = "cpu, cuda, cuda:N, mps, or auto: cuda where there is one."
CHUNK = 1024  # texts embedded between two writes

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _option(names: str, default: Any, text: str, **more: Any) -> Decorator:
    """An option whose help says its default; `names` as "-o --output"."""
    if isinstance(default, int | float) or "type" in more:
        more.setdefault("metavar", "N")
    return click.option(*names.split(), default=default, show_default=default is not None, help=text, **more)


def _decoding(command: Callable[..., None]) -> Callable[..., None]:
    """The inverter, and the options that decide how masks become tokens."""
    at_once = click.IntRange(min=1)
    for decorator in (
        _option("--device", "auto", DEVICES, metavar="NAME"),
        _option("--batch-size", 64, "Rows on the device at once.", type=at_once),
        _option("--seed", 0, "Decides everything that is random."),
        _option("--temperature", None, SAMPLING, type=float),
        _option("--steering", 75.0, "How strongly tokens are drawn towards the embedding, by the surrogate; 0: not."),
        _option("--balance", 0.7, "How strongly later passes keep to the token counts that the first one expects."),
        _option("--guidance", 0.0, "Strength of classifier-free guidance; doubles the passes."),
        _option("--encoder-url", None, f"{REMOTE} Its key is read from UNEMBED_API_KEY.", metavar="URL"),
        _option("--max-calls", None, MAX_CALLS, type=int),
        _option("--seconds", None, SECONDS, type=float),
        _option("--candidates", 1, "Texts recovered per embedding, best first."),
        _option("--strategy", "confidence", f"How masks become tokens: {STRATEGIES}.", metavar="NAME"),
        _option("--steps", 8, "Most passes per candidate, from 1 to the length of the inverter's canvas."),
        _option(
            "--model",
            None,
            "Packaged name, folder, .pt file or Hub id.  [default: the packaged inverter]",
            metavar="NAME",
        ),
    ):
        command = decorator(command)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="unembed", message="%(prog)s %(version)s")
def main() -> None:
    """Recover text from embedding vectors with a conditional masked diffusion language model.

    Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted. An error is one line on standard
    error.
    """


main.add_command(serve)


@main.command()
@click.argument("text", nargs=-1)
@_option("--texts", None, f"Texts to embed: {TEXT_FILES}.", metavar="FILE")
@_option("-o --output", None, "Write a float32 array (n, d); without it, JSON lines are printed.", metavar="FILE.npy")
@_option("--encoder", ENCODER, "Known name, local folder or Hub id.", metavar="NAME")
@_option("--batch-size", 32, "Texts embedded at once.", type=click.IntRange(min=1))
@_option("--device", "auto", DEVICES, metavar="NAME")
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
    _check_ending(output, ".npy")
    from unembed.cli.terminal import working
    from unembed.corpus.sources import find_sources, read_texts

    if texts is not None:
        find_sources([texts])
    with working("loading the encoder"):
        from tqdm import tqdm

        from unembed.encoders.encoder import load_encoder
        from unembed.encoders.vectors import write_npy

        loaded = load_encoder(encoder, _device(device))
    room, cut = _room(loaded), 0

    def batches() -> Iterator[tuple[list[str], Any]]:
        nonlocal cut
        rest, first = iter(text) if texts is None else read_texts(texts), 1
        with tqdm(desc="encode", unit=" texts", disable=texts is None or not sys.stderr.isatty()) as bar:
            while batch := list(itertools.islice(rest, CHUNK)):
                cut += sum(len(ids) > room for ids in _content(batch, loaded, first, texts))
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


@main.command()
@click.argument("text", nargs=-1)
@_option("--embeddings", None, "Embeddings: .npy, .parquet or .jsonl; - reads JSON lines or a .npy.", metavar="FILE")
@_option("--column", "embedding", "Column of a Parquet file, or key of JSON lines.", metavar="NAME")
@_option("--encoder", None, "What made the embeddings; refused if the inverter is for another one.", metavar="NAME")
@_decoding
@_option("-o --output", None, "Write a JSON line per row; goes on if it was interrupted.", metavar="FILE.jsonl")
@click.option("--overwrite", is_flag=True, help="Start --output anew instead of going on.")
@click.option("--no-cosine", is_flag=True, help="Do not embed the recovered texts to report their cosine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def invert(
    ctx: click.Context, /, text: tuple[str, ...], embeddings: str | None, column: str, encoder: str | None,
    model: str | None, encoder_url: str | None, batch_size: int, device: str, output: str | None, overwrite: bool,
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
    _check_ending(output, ".jsonl")
    from unembed.cli.terminal import working

    with working("loading"):
        from unembed.encoders.vectors import open_vectors, scan

        vectors = None if embeddings is None else open_vectors(embeddings, column)
        inverter = _inverter(model, device, encoder_url)
        _check_options(inverter, options, encoder)
    options["measure_cosine"] = not no_cosine
    if vectors is None:
        _round_trip(inverter, text, options, batch_size, output, as_json)
        return
    bars = sys.stderr.isatty()
    scanned = scan(vectors, inverter.recipe, bars)
    if output is None:
        _print_inversions(inverter, vectors, options, batch_size, as_json)
        return
    from unembed.cli.bulk import invert_file

    how = "without --overwrite" if overwrite else "again"
    ctx.meta[CONTINUE] = f"; the same command {how} goes on from the rows in {output}.part"
    done = invert_file(
        inverter, vectors, scanned, Path(output), options,
        batch_size=batch_size, overwrite=overwrite, show_progress_bar=bars,
    )  # fmt: skip
    kept = f", {done['continued_from']:,} of them from before" if done["continued_from"] else ""
    click.echo(json.dumps(done) if as_json else f"{done['rows']:,} rows -> {output}{kept}")


@main.command(cls=GreedyCommand)
@click.argument("config")
@_option("--texts", None, f"Files ({TEXT_FILES}) or folders.", metavar="PATH...", required=True, multiple=True)
@_option("-o --output", None, "Folder for the shards.", metavar="DIR", required=True)
@_option("--limit", None, "Rows read of each source at most.", type=click.IntRange(min=1))
@_option("--seed", 0, "Order of the held-out texts.", type=click.IntRange(min=0))
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


@main.command()
@click.argument("config")
@_option("--data", None, "Folder that `unembed prepare` wrote.", metavar="DIR", required=True)
@_option("-o --output", None, "Folder of the run: checkpoints, logs, the inverter.", metavar="DIR", required=True)
@_option("--from", None, "Start from the weights of an inverter or of a stable-* checkpoint.", metavar="DIR")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the run's folder.")
@_option(
    "--set", None, "Change a key of CONFIG, such as training.learning_rate=1e-3.", metavar="KEY=VALUE", multiple=True
)
@_option("--minutes", None, "Time box, over all sessions of the run.", type=click.FloatRange(min=0, min_open=True))
@click.pass_context
def train(
    ctx: click.Context, /, config: str, data: str, output: str, resume: bool, minutes: float | None, **more: Any
) -> None:
    """Train an inverter on prepared shards, by the YAML file CONFIG.

    The inverter so far is `inverter` in the run's folder, renewed at every checkpoint. With --minutes the learning rate
    falls to zero at the end of that time, else at the end of the configuration's steps.
    """  # fmt: skip
    from unembed.config import config_from_dict, config_to_dict, load_config, overridden

    settings = load_config(config)
    # All at once: some are possible only together.
    settings = config_from_dict(overridden(config_to_dict(settings), ",".join(more["set"])))
    from unembed.cli.terminal import working

    with working("loading"):
        from unembed.training.train import train as run

    ctx.meta[CONTINUE] = f"; the same command{'' if resume else ' with --resume'} goes on from the newest checkpoint"
    bars = sys.stderr.isatty()
    folder = run(
        settings, data, output, resume=resume, start_from=more["from"], minutes=minutes, show_progress_bar=bars
    )
    click.echo(f"inverter -> {folder}")


@main.command()
@_option("--texts", None, f"Held-out texts: {TEXT_FILES}.", metavar="FILE", required=True)
@_option("--tokens", "32", "Tokens to cut texts to; natural: whole texts; N-M: of so many.", metavar="N|natural|N-M")
@_option("--limit", None, "Texts measured at most.  [default: all]", type=click.IntRange(min=1))
@_decoding
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    texts: str, tokens: str, limit: int | None, model: str | None, encoder_url: str | None, batch_size: int,
    device: str, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure how much of held-out texts comes back, with intervals and the level of chance.

    Each text is embedded by the inverter's own encoder and recovered from all masks, its length not given.
    """
    from unembed.cli.terminal import console, show_report, working
    from unembed.corpus.sources import find_sources, read_texts
    from unembed.corpus.truths import parse_tokens

    wanted = parse_tokens(tokens)
    find_sources([texts])
    with working("loading"):
        from unembed.evaluation.evaluate import evaluate as measure

        inverter = _inverter(model, device, encoder_url)
    _check_options(inverter, options)
    report = measure(
        inverter, read_texts(texts), tokens=wanted, limit=limit, batch_size=batch_size,
        show_progress_bar=sys.stderr.isatty(), **options,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        show_report(console(), report)


def _inverter(model: str | None, device: str, encoder_url: str | None) -> "Inverter":
    from unembed.inverter import Inverter

    inverter = Inverter.from_pretrained(model, _device(device))
    if encoder_url is None:
        return inverter
    from unembed.encoders.remote import RemoteEncoder

    encoder = RemoteEncoder(encoder_url, inverter.recipe, inverter.tokenizer)

    def say_cost() -> None:
        if encoder.calls:
            click.echo(f"{encoder_url}: asked for {encoder.calls:,} texts, {encoder.tokens:,} tokens", err=True)

    click.get_current_context().call_on_close(say_cost)  # after an error or Ctrl-C too: it may have cost money
    return inverter.asking(encoder)


def _device(name: str) -> str:
    """A device that torch has. Raises InputError."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if not (number or "0").isdecimal() or int(number or 0) >= here.get(kind, 0):
        known = ", ".join(kind for kind, count in here.items() if count)
        raise InputError(f"device is {name!r}, expected one that this machine has ({known}), or auto")
    return name


def _check_ending(output: str | None, ending: str) -> None:
    if output is not None and Path(output).suffix != ending:
        raise InputError(f"{output}: unknown ending {Path(output).suffix!r} of --output, expected {ending}")


def _check_options(inverter: "Inverter", options: dict[str, Any], encoder: str | None = None) -> None:
    """Refuse what is impossible before anything is embedded or written: inverting no rows checks it all."""
    import numpy as np

    inverter.invert(np.zeros((0, inverter.recipe.dimension), np.float32), **options, recipe=encoder)


def _content(
    texts: Sequence[str], encoder: "Encoder | Inverter", first: int = 1, source: str | None = None
) -> list[list[int]]:
    """Content tokens of texts. Raises InputError where one has none."""
    rows = encoder.tokenizer.encode_batch(texts)
    for number, ids in enumerate(rows, first):
        if not ids:
            place = f"{source}: text" if source else "text"
            raise InputError(f"{place} {number} is empty or holds nothing that the encoder reads, expected words")
    return rows


def _room(encoder: "Encoder | Inverter") -> int:
    """Content tokens that the encoder reads."""
    tokenizer = encoder.tokenizer
    return encoder.recipe.max_length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)


def _floats(rows: Any) -> Iterator[list[float]]:
    """Rows as the shortest decimals that give the same float32 back."""
    return ([float(str(value)) for value in row] for row in rows)


def _print_inversions(
    inverter: "Inverter", vectors: "Vectors", options: dict[str, Any], batch_size: int, as_json: bool
) -> None:
    """Every row to standard output: a table in a terminal, else one text a line, or one JSON object."""
    from unembed.cli.bulk import record, rows_at_once
    from unembed.cli.terminal import console, printable, show_inversions

    out = console()
    results: list[dict[str, Any]] = []
    for start, batch in vectors.batches(rows_at_once(options, batch_size)):
        found = inverter.invert(batch, **options, batch_size=batch_size, first_row=start)
        if as_json:
            results += [record(inversion, row) for row, inversion in enumerate(found, start)]
        elif out.is_terminal:
            show_inversions(out, found, start)
        else:
            click.echo("\n".join(printable(inversion.text) for inversion in found))
    if as_json:
        click.echo(json.dumps({"encoder": inverter.recipe.encoder, "options": options, "results": results}))


def _round_trip(
    inverter: "Inverter", texts: Sequence[str], options: dict[str, Any], batch_size: int, output: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Texts to embeddings and back, beside each other."""
    from unembed.cli.bulk import line, record
    from unembed.cli.terminal import console, count_hits, plain_round_trip, show_inverting, show_round_trip, working
    from unembed.files.atomic import atomic_file

    truths, room = _content(texts, inverter), _room(inverter)
    for number, truth in enumerate(truths, 1):
        if len(truth) > inverter.length:
            unread = f"; the encoder reads the first {room:,}" if len(truth) > room else ""
            say(f"note: text {number} has {len(truth):,} tokens, of which at most {inverter.length} come back{unread}")
    with working("embedding"):
        embeddings = inverter.encode(texts)
    out = console()
    if out.is_terminal and output is None and not as_json:
        for row, (text, truth) in enumerate(zip(texts, truths, strict=True)):
            inversion, seconds = show_inverting(out, inverter, embeddings[row], options, row)
            show_round_trip(out, inverter.tokenizer, text, inversion, truth, seconds)
        return
    found = inverter.invert(embeddings, **options, batch_size=batch_size)
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
        click.echo(json.dumps({"encoder": inverter.recipe.encoder, "options": options, "results": results}))
    elif output is not None:
        click.echo(f"{len(found):,} rows -> {output}")
