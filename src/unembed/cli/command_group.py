"""A click command tree that tells every failure in one line.

Unusual here: nothing that goes wrong shows a traceback. It becomes one line on standard error, `unembed: ...`, and
an exit code: 1 the work failed, 2 the call was wrong, 130 interrupted. Set UNEMBED_TRACEBACK=1 to see where an error
that nobody foresaw comes from.
"""

import contextlib
import errno
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from unembed.errors import UnembedError

INTERRUPTED = 130
TRACEBACK = "UNEMBED_TRACEBACK"
CONTINUE = "unembed.continue"  # key of the context's notes: how the command goes on when it is interrupted


class Commands(click.Group):
    """The tree: runs a command, and exits with its code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """As click's own, but for how errors are told."""
        run: Any = super().main
        if not options.pop("standalone_mode", True):
            return run(*args, standalone_mode=False, **options)
        try:
            code = run(*args, standalone_mode=False, **options)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            code = say(error.format_message(), 2)
        except click.Abort:
            code = say("interrupted", INTERRUPTED)
        except OSError as error:
            _drop_output()
            code = 1
            if error.errno != errno.EPIPE:
                say(f"{error.filename or 'standard output'}: {error.strerror or error}")
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            code = say(f"unexpected {type(error).__name__}: {error} (set {TRACEBACK}=1 to see where)", 1)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what is foreseen to go wrong ends here."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except UnembedError as error:
                ctx.exit(say(str(error), error.exit_code))
            except KeyboardInterrupt:
                if sys.stderr.isatty():
                    click.echo(err=True)  # the terminal's ^C stands on the line
                ctx.exit(say(f"interrupted{ctx.meta.get(CONTINUE, '')}", INTERRUPTED))


class GreedyCommand(click.Command):
    """A command whose `--texts` takes every argument up to the next option, as the shell's `*.txt` gives them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--texts a b c` as click reads it: `--texts a --texts b --texts c`."""
        spread: list[str] = []
        greedy = first = False
        for arg in args:
            if arg.startswith("-"):
                greedy = first = arg == "--texts"
            elif greedy and not first:
                spread.append("--texts")
            else:
                first = False
            spread.append(arg)
        return super().parse_args(ctx, spread)


def say(message: str, code: int = 1) -> int:
    """Write one line to standard error; returns the exit code."""
    line = " ".join(message.split())  # what it names may come from a stranger's file: no terminal's escape codes
    click.echo("unembed: " + "".join(c if c.isprintable() else "\ufffd" for c in line), err=True)
    return code


def _show_warning(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
    """Warnings of unembed's own are for the user; those of libraries are for developers, who see them in the tests."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        say(f"warning: {message}")


def _drop_output() -> None:
    """Nobody takes standard output any more: keep Python from trying once again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
