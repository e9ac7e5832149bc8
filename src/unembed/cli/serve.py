"""`unembed serve`: its options are the fields of `Settings`; nothing heavy is imported until it runs."""

import dataclasses
import sys
import typing
from collections.abc import Callable
from typing import Any

import click

from unembed.cli.command_group import say
from unembed.errors import UnembedError
from unembed.server.settings import ENVIRONMENT, Settings

Command = Callable[..., None]


def _options(command: Command) -> Command:
    """An option for each setting, which an environment variable sets too."""
    hints = typing.get_type_hints(Settings)
    for setting in reversed(dataclasses.fields(Settings)):
        hint, least = hints[setting.name], setting.metadata["least"]
        more: dict[str, Any] = {"default": setting.default, "show_default": True}
        if hint is bool:
            more["is_flag"] = True
        elif hint is int:
            more["type"] = click.IntRange(min=least)
        elif hint is float:
            more["type"] = click.FloatRange(min=least)
        elif typing.get_origin(hint) is tuple:
            more |= {"multiple": True, "show_default": False}
        name = setting.name.replace("_", "-")
        variable = ENVIRONMENT + setting.name.upper()
        command = click.option(
            f"--{name}", setting.name, help=setting.metadata["doc"], envvar=variable, show_envvar=True, **more
        )(command)
    return command


@click.command()
@_options
def serve(**values: Any) -> None:
    """Serve the demo page and the HTTP interface.

    Each option can also be set by the environment variable beside it, where several values are separated by spaces.
    """
    settings = Settings(**values)
    from unembed.cli.terminal import working

    with working("loading the inverter and its encoder"):
        from unembed.server.run import listen, load, run

        sockets = listen(settings)
        models = load(settings)

    def ready(address: str) -> None:
        click.echo(f"Serving {', '.join(models.ids)} on {models.default.inverter.device}: {address} (Ctrl-C stops)")
        sys.stdout.flush()

    run(models, settings, sockets, ready)


def main() -> None:
    """The command on its own, for `demo_server.py`: a failure is one line and an exit code."""
    try:
        serve.main(standalone_mode=False, prog_name="demo_server.py")
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except UnembedError as error:
        sys.exit(say(str(error), error.exit_code))
