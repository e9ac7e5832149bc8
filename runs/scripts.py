"""How a script of this folder ends: an error of ours is one line and an exit code, not a traceback."""

import sys

import click

from unembed.errors import UnembedError


def run(main: click.Command) -> None:
    """Run a script's command."""
    try:
        main()
    except UnembedError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
