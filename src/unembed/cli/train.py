"""`unembed train`: token shards to an inverter."""

import sys
from typing import Any

import click

from unembed.cli.command_group import CONTINUE
from unembed.cli.options import option


@click.command()
@click.argument("config")
@option("--data", None, "Folder that `unembed prepare` wrote.", metavar="DIR", required=True)
@option("-o --output", None, "Folder of the run: checkpoints, logs, the inverter.", metavar="DIR", required=True)
@option("--from", None, "Start from the weights of an inverter or of a stable-* checkpoint.", metavar="DIR")
@option("--aligner", None, "Aligner by which --from, another encoder's inverter, reads this one.", metavar="DIR")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the run's folder.")
@option(
    "--set", None, "Change a key of CONFIG, such as training.learning_rate=1e-3.", metavar="KEY=VALUE", multiple=True
)
@option("--minutes", None, "Time box, over all sessions of the run.", type=click.FloatRange(min=0, min_open=True))
@click.option("--no-fit", is_flag=True, help="Leave surrogate and calibration to `unembed fit`.")
@click.pass_context
def train(
    ctx: click.Context, /, config: str, data: str, output: str, resume: bool, minutes: float | None, no_fit: bool,
    **more: Any,
) -> None:  # fmt: skip
    """Train an inverter on prepared shards, by the YAML file CONFIG.

    The inverter so far is `inverter` in the run's folder, renewed at every checkpoint. With --minutes the learning rate
    falls to zero at the end of that time, else at the end of the configuration's steps. Afterwards the inverter's
    surrogate and calibration are fitted, which takes less than a tenth as long, or a few minutes.
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
        settings, data, output, resume=resume, start_from=more["from"], aligner=more["aligner"], minutes=minutes,
        fit=not no_fit, show_progress_bar=bars,
    )  # fmt: skip
    click.echo(f"inverter -> {folder}")
