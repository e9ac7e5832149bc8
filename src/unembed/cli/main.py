"""The `unembed` command, one file for each of its commands.

Nothing heavy is imported until a command runs. Standard output carries results only; notes, bars and errors go to
standard error (see `commands`).
"""

import click

from unembed import __version__
from unembed.cli.align import align
from unembed.cli.audit import audit
from unembed.cli.command_group import Commands
from unembed.cli.encode import encode
from unembed.cli.evaluate import evaluate
from unembed.cli.fit import fit
from unembed.cli.invert import invert
from unembed.cli.prepare import prepare
from unembed.cli.recover import recover
from unembed.cli.serve import serve
from unembed.cli.stores import stores
from unembed.cli.train import train


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="unembed", message="%(prog)s %(version)s")
def main() -> None:
    """Recover text from embedding vectors with a conditional masked diffusion language model.

    Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 3 an audit's gate was reached, 130 interrupted. An
    error is one line on standard error.
    """


for command in (encode, invert, audit, stores, recover, prepare, train, fit, align, evaluate, serve):
    main.add_command(command)
