"""What commands share: options and their checks, the inverter and the device that they name.

Nothing heavy is imported until a command runs, so that `--help` answers at once. What can be refused is refused before
a model is loaded or a file is written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from unembed.decoding.options import Decoding
from unembed.denoiser.devices import device_of
from unembed.errors import InputError
from unembed.search.options import Search, options_of

if TYPE_CHECKING:
    from unembed.config import Recipe
    from unembed.decoding.inversion import Inversion
    from unembed.encoders.embedding_files import Vectors
    from unembed.encoders.encoder import Encoder
    from unembed.encoders.remote import RemoteEncoder
    from unembed.encoders.tokenizer import Tokenizer
    from unembed.inverter import Inverter

ENCODER = "all-MiniLM-L6-v2"
TEXT_FILES = ".txt (one a line), .jsonl, .csv or .parquet, also .zst or .gz; a folder; or a dataset id"
REMOTE = "Ask the encoder behind this address, not a local one: OpenAI's interface, ollama's or TEI's."
BATCH = "Texts in one request to --encoder-url.  [default: 32, halved where the endpoint says it is too large]"
METAVARS = {int: "N", float: "N", str: "NAME"}
DEVICES = "cpu, cuda, cuda:N, mps, or auto: cuda where there is one."

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(frozen=True)
class Plan:
    """What is done with each row of embeddings: the same in a terminal, in a pipe and in a file."""

    decoding: Decoding
    search: Search | None
    measure_cosine: bool = True
    batch_size: int = 64
    normalize: bool = False
    skip_bad: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What decides the results, JSON-ready."""
        found = options_of(self.decoding, self.search) | {"measure_cosine": self.measure_cosine}
        return found | {name: True for name in ("normalize", "skip_bad") if getattr(self, name)}

    @property
    def rows_at_once(self) -> int:
        """Rows that are inverted between two looks at the results: one by one where each is searched for."""
        return self.batch_size if self.search is None else 1

    def invert(
        self, inverter: "Inverter", embeddings: Any, first_row: int = 0, journal: Path | None = None
    ) -> "list[Inversion]":
        """`Inverter.invert` by this plan."""
        return inverter.invert(
            embeddings, self.decoding, self.search and replace(self.search, journal_folder=journal),
            batch_size=self.batch_size, measure_cosine=self.measure_cosine, normalize=self.normalize,
            skip_bad=self.skip_bad, first_row=first_row,
        )  # fmt: skip

    def invert_rows(
        self, inverter: "Inverter", vectors: "Vectors", batch: Any, start: int, journal: Path | None = None
    ) -> "list[Inversion]":
        """The inversions of a batch of `vectors` that begins at row `start`; those left out say why."""
        found = self.invert(inverter, batch, start, journal)
        return [
            one if one.skipped is None else replace(one, skipped=vectors.unread.get(row, one.skipped))
            for row, one in enumerate(found, start)
        ]


def option(names: str, default: Any, text: str, **more: Any) -> Decorator:
    """An option whose help says its default; `names` as "-o --output"."""
    if isinstance(default, int | float) or "type" in more:
        more.setdefault("metavar", "N")
    if default is not None:  # to click, a default of None is one, which a required option would take
        more |= {"default": default, "show_default": True}
    return click.option(*names.split(), help=text, **more)


def decoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """The inverter, and an option for each field of `Decoding` and of `Search`."""
    model = "Packaged name, folder, .pt file or Hub id.  [default: the packaged inverter]"
    encoder = "What made the embeddings; refused if the inverter is for another one. One that is not known by name is "
    encoder += "loaded only if it was named so once on this machine."
    decorators = [
        option("--model", None, model, metavar="NAME"),
        option("--encoder", None, encoder, metavar="NAME"),
    ]
    for one in (Decoding, Search):
        hints = get_type_hints(one)
        for f in fields(one):
            if "doc" in f.metadata:
                kind = next(kind for kind in (int, float, str) if kind in (hints[f.name], *get_args(hints[f.name])))
                name = f"--{f.name.replace('_', '-')}"
                decorators.append(option(name, f.default, f.metadata["doc"], type=kind, metavar=METAVARS.get(kind)))
    decorators += [
        option("--aligner", None, "Folder of an aligner, for the vectors of another encoder.", metavar="DIR"),
        option("--encoder-url", None, f"{REMOTE} Its key is read from UNEMBED_API_KEY.", metavar="URL"),
        option(
            "--encoder-model",
            None,
            "What --encoder-url calls its model.  [default: the encoder's name]",
            metavar="NAME",
        ),
        option("--encoder-batch", None, BATCH, type=click.IntRange(min=1)),
        option("--batch-size", 64, "Rows on the device at once.", type=click.IntRange(min=1)),
        option("--device", "auto", DEVICES, metavar="NAME"),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def load_inverter(options: dict[str, Any]) -> "Inverter":
    """The inverter that the options name, which are taken out. An encoder behind an address is asked for one text."""
    names = ("model", "device", "encoder", "aligner", "encoder_url", "encoder_model", "encoder_batch")
    model, device, encoder, aligner, url, encoder_model, encoder_batch = (options.pop(name) for name in names)
    from unembed.inverter import Inverter

    if url is None and (encoder_model is not None or encoder_batch is not None):
        raise InputError(
            "--encoder-model and --encoder-batch are for an encoder behind an address, expected --encoder-url"
        )
    inverter = Inverter.from_pretrained(model, device_of(device), encoder, aligner=aligner)
    if url is None:
        return inverter
    return inverter.asking(remote_encoder(url, inverter.recipe, inverter.tokenizer, encoder_model, encoder_batch))


def remote_encoder(
    url: str, recipe: "Recipe", tokenizer: "Tokenizer", model: str | None = None, batch: int | None = None
) -> "RemoteEncoder":
    """An encoder behind an address, asked for one text at once; what it was asked for is told at the command's end."""
    from unembed.encoders.remote import RemoteEncoder

    remote = RemoteEncoder(url, recipe, tokenizer, model, batch)

    def end() -> None:
        remote.close()
        if remote.calls:
            click.echo(f"{remote.url}: asked for {remote.calls:,} texts, {remote.tokens:,} tokens", err=True)

    click.get_current_context().call_on_close(end)  # after an error or Ctrl-C too: it may have cost money
    remote.probe()
    return remote


def check_ending(output: str | None, ending: str) -> None:
    if output is not None and Path(output).suffix != ending:
        raise InputError(f"{output}: unknown ending {Path(output).suffix!r} of --output, expected {ending}")


def content(texts: Sequence[str], encoder: "Encoder | Inverter") -> list[list[int]]:
    """Content tokens of texts. Raises InputError where one has none."""
    rows = encoder.tokenizer.encode_batch(texts)
    for number, ids in enumerate(rows, 1):
        if not ids:
            raise InputError(f"text {number} is empty or holds nothing that the encoder reads, expected words")
    return rows


def room_of(encoder: "Encoder | Inverter") -> int:
    """Content tokens that the encoder reads."""
    tokenizer = encoder.tokenizer
    return encoder.recipe.max_length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
