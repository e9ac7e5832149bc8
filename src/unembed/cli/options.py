"""What commands share: options and their checks, the inverter and the device that they name.

Nothing heavy is imported until a command runs, so that `--help` answers at once. What can be refused is refused before
a model is loaded or a file is written.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.encoders.encoder import Encoder
    from unembed.inverter import Inverter

ENCODER = "all-MiniLM-L6-v2"
STRATEGIES = "confidence, sequential, euler, remask, two-stage or threshold"
TEXT_FILES = ".txt (one a line), .jsonl or .parquet, also .zst or .gz; or a dataset id"
SAMPLING = "0 takes the likeliest token, more samples.  [default: 0, or 0.5 for several candidates]"
SECONDS = "Guided inversion: search each embedding's text for up to N seconds, with the encoder's help."
MAX_CALLS = "Guided inversion with a priced encoder: embed at most N texts per embedding."
REMOTE = "Ask the encoder behind this address, in the OpenAI shape, not a local one."
DEVICES = "cpu, cuda, cuda:N, mps, or auto: cuda where there is one."

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def option(names: str, default: Any, text: str, **more: Any) -> Decorator:
    """An option whose help says its default; `names` as "-o --output"."""
    if isinstance(default, int | float) or "type" in more:
        more.setdefault("metavar", "N")
    if default is not None:  # to click, a default of None is one, which a required option would take
        more |= {"default": default, "show_default": True}
    return click.option(*names.split(), help=text, **more)


def decoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """The inverter, and the options that decide how masks become tokens."""
    at_once = click.IntRange(min=1)
    for decorator in (
        option("--device", "auto", DEVICES, metavar="NAME"),
        option("--batch-size", 64, "Rows on the device at once.", type=at_once),
        option("--seed", 0, "Decides everything that is random."),
        option("--temperature", None, SAMPLING, type=float),
        option("--steering", 75.0, "How strongly tokens are drawn towards the embedding, by the surrogate; 0: not."),
        option("--balance", 0.7, "How strongly later passes keep to the token counts that the first one expects."),
        option("--guidance", 0.0, "Strength of classifier-free guidance; doubles the passes."),
        option("--encoder-url", None, f"{REMOTE} Its key is read from UNEMBED_API_KEY.", metavar="URL"),
        option("--max-calls", None, MAX_CALLS, type=int),
        option("--seconds", None, SECONDS, type=float),
        option("--candidates", 1, "Texts recovered per embedding, best first."),
        option("--strategy", "confidence", f"How masks become tokens: {STRATEGIES}.", metavar="NAME"),
        option("--steps", 8, "Most passes per candidate, from 1 to the length of the inverter's canvas."),
        option(
            "--model",
            None,
            "Packaged name, folder, .pt file or Hub id.  [default: the packaged inverter]",
            metavar="NAME",
        ),
    ):
        command = decorator(command)
    return command


def load_inverter(model: str | None, device: str, encoder_url: str | None) -> "Inverter":
    from unembed.inverter import Inverter

    inverter = Inverter.from_pretrained(model, device_of(device))
    if encoder_url is None:
        return inverter
    from unembed.encoders.remote import RemoteEncoder

    encoder = RemoteEncoder(encoder_url, inverter.recipe, inverter.tokenizer)

    def say_cost() -> None:
        if encoder.calls:
            click.echo(f"{encoder_url}: asked for {encoder.calls:,} texts, {encoder.tokens:,} tokens", err=True)

    click.get_current_context().call_on_close(say_cost)  # after an error or Ctrl-C too: it may have cost money
    return inverter.asking(encoder)


def device_of(name: str) -> str:
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


def check_ending(output: str | None, ending: str) -> None:
    if output is not None and Path(output).suffix != ending:
        raise InputError(f"{output}: unknown ending {Path(output).suffix!r} of --output, expected {ending}")


def check_options(inverter: "Inverter", options: dict[str, Any], encoder: str | None = None) -> None:
    """Refuse what is impossible before anything is embedded or written: inverting no rows checks it all."""
    import numpy as np

    inverter.invert(np.zeros((0, inverter.recipe.dimension), np.float32), **options, recipe=encoder)


def content(
    texts: Sequence[str], encoder: "Encoder | Inverter", first: int = 1, source: str | None = None
) -> list[list[int]]:
    """Content tokens of texts. Raises InputError where one has none."""
    rows = encoder.tokenizer.encode_batch(texts)
    for number, ids in enumerate(rows, first):
        if not ids:
            place = f"{source}: text" if source else "text"
            raise InputError(f"{place} {number} is empty or holds nothing that the encoder reads, expected words")
    return rows


def room_of(encoder: "Encoder | Inverter") -> int:
    """Content tokens that the encoder reads."""
    tokenizer = encoder.tokenizer
    return encoder.recipe.max_length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
