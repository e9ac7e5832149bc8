"""`unembed fit`: surrogate, student and calibration of a trained inverter."""

import json
import sys

import click

from unembed.cli.command_group import CONTINUE, GreedyCommand
from unembed.cli.options import DEVICES, TEXT_FILES, option
from unembed.denoiser.devices import device_of

STEPS = ("surrogate", "student", "calibration")


@click.command(cls=GreedyCommand)
@click.argument("model")
@option("--texts", None, f"Files ({TEXT_FILES}) or folders.", metavar="PATH...", multiple=True)
@option("--data", None, "Folder that `unembed prepare` wrote, in the place of --texts.", metavar="DIR")
@option("--work", None, "Folder for embeddings and progress.  [default: MODEL.fit]", metavar="DIR")
@option("--only", None, "A step to do, and none that is not named; can be repeated.  [default: all]",
        type=click.Choice(STEPS), metavar="|".join(STEPS), multiple=True)  # fmt: skip
@option("--limit", 245_760, "Texts embedded for the surrogate, and as many for the student.", type=click.IntRange(1))
@option("--minutes", 60.0, "Training of the student, over all calls.", type=click.FloatRange(min=0))
@click.option("--stream", is_flag=True, help="On a GPU: embed texts for the student as they are needed, none twice.")
@click.option("--go-on", is_flag=True, help="Train the student that MODEL has, not a new one.")
@option(
    "--encoder",
    None,
    "The encoder for training alone, of any precision: the folder of its files, or its id.",
    metavar="DIR",
)
@option("--seed", 0, "Decides everything that is random.", type=click.IntRange(0))
@option("--device", "auto", DEVICES, metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def fit(
    ctx: click.Context, /, model: str, texts: tuple[str, ...], data: str | None, work: str | None,
    only: tuple[str, ...], limit: int, minutes: float, stream: bool, go_on: bool, encoder: str | None, seed: int,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Fit what an inverter needs after its training, and write it into its folder MODEL.

    The surrogate, a cheap model of the encoder, steers blind inversions and lists the changes of guided ones; its
    student ranks several candidates; the calibration makes confidences probabilities. All learn from texts that the
    encoder embeds. Figures are of held-out ones. The same command, given again, goes on where an interrupted one
    stopped.
    """
    from unembed.cli.terminal import working

    with working("loading"):
        from unembed.training.fit import FitOptions
        from unembed.training.fit import fit as run

    options = FitOptions(only or STEPS, limit, minutes, stream, go_on, seed)
    where = device_of(device)
    ctx.meta[CONTINUE] = "; the same command again goes on where it stopped"
    figures = run(
        model, texts, data, options, work=work, encoder=encoder, device=where,
        show_progress_bar=sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"model": model, **figures}))
        return
    for name, found in figures.items():
        said = "cosine {cosine:.3f} to the encoder, correlation {correlation:.3f} of foreseen changes, of {n:,} texts"
        if name == "calibration":
            said = "calibration error {before:.3f}, then {after:.3f}, of {n:,} texts"
        click.echo(f"{name}: {said.format(**found)}")
    click.echo(f"inverter -> {model}")
