"""`unembed audit`: what stores of vectors give away, as a report and as a gate for CI."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.audit.findings import STATUSES
from unembed.audit.options import SAMPLE, AuditOptions
from unembed.cli.command_group import INTERRUPTED, say
from unembed.cli.options import DEVICES, REMOTE, option
from unembed.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm

GATE = 3  # exit code where a finding reaches --fail-on
LEVELS = (*STATUSES[:-1], "any")
ENCODER = "What made the vectors: a known name, a folder or a Hub id.  [default: found out]"


@click.command()
@click.argument("store", nargs=-1, required=True)
@option("-o --output", None, "Write report.html, report.json and report.sarif; goes on if interrupted.", metavar="DIR")
@option("--sample", SAMPLE, "Rows to attack, over all collections; of each at least 20.", type=click.IntRange(min=1))
@option("--seconds", None, "Guided inversion: ask the encoder for up to N seconds a row.", type=float)
@option("--encoder", None, ENCODER, metavar="NAME")
@option("--encoder-url", None, f"{REMOTE} Its key is read from UNEMBED_API_KEY.", metavar="URL")
@option("--encoder-model", None, "What --encoder-url calls its model.  [default: the encoder's name]", metavar="NAME")
@option("--aligner", None, "Folder of an aligner, for vectors of another encoder than the inverter's.", metavar="DIR")
@option("--model", None, "Inverter: packaged name, folder, .pt file or Hub id.  [default: packaged]", metavar="NAME")
@click.option("--defences", is_flag=True, help="Price defences: what each takes from the attack and from the search.")
@option(
    "--fail-on", None,
    "Exit with 3 where one sampled row comes back so far or further, if the 95 % interval of the share is above "
    "chance; any: where a finding has at least low severity, such as a file that every user can read.",
    type=click.Choice(LEVELS), metavar="LEVEL",
)  # fmt: skip
@option("--baseline", None, "An earlier report.json; only what is new or worse counts.", metavar="FILE")
@click.option(
    "--without-texts", is_flag=True,
    help="Use neither texts nor hashes of the store: what who has its vectors alone gets. The encoder alone decides.",
)  # fmt: skip
@click.option("--show-text", is_flag=True, help="Show recovered texts in the report, which only you may then read.")
@option("--deadline", None, "Seconds for the whole audit; what is done by then is reported.", type=float)
@option("--seed", 0, "Decides which rows are drawn, and everything else that is random.", type=click.IntRange(min=0))
@option("--device", "auto", DEVICES, metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.pass_context
def audit(
    ctx: click.Context, /, store: tuple[str, ...], output: str | None, fail_on: str | None, baseline: str | None,
    show_text: bool, as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Recover text from a uniform sample of each STORE's vectors, and report what a copy of it gives away.

    A STORE is a path, or KIND:LOCATION, with #COLLECTION for one of its collections. It is never written to.
    Recovered texts are compared with the store's own, with its hashes, or by the encoder, and with what random vectors
    and other rows give. No recovered text is shown without --show-text.

    Exit codes: 0 done, 1 something could not be read, 2 the call was wrong, 3 the gate was reached, 130 interrupted.
    """
    from unembed.audit import json_report

    before = None if baseline is None else json_report.read_report(baseline)
    options = AuditOptions(show_text=show_text, **chosen)
    from unembed.audit.audit import audit as run
    from unembed.audit.baseline import reached

    with _Bars() as bars:
        report = run(store, options, output=None if output is None else Path(output), progress=bars.show)
    gate = [] if fail_on is None else reached(report, fail_on, before)
    written = []
    if output is not None:
        from unembed.audit.writing import write_report

        written = write_report(report, output, show_text, before)
    if as_json:
        click.echo(json.dumps(json_report.to_json(report, show_text)))
    else:
        from unembed.audit.summary import show_audit
        from unembed.cli.terminal import console

        show_audit(console(), report, before, written, gate)
    if report.about["interrupted"]:
        further = "; the same command goes on from there" if output is not None else ""
        ctx.exit(say(f"interrupted, the report is of what was done by then{further}", INTERRUPTED))
    if gate:
        ctx.exit(GATE)
    if report.about["failed"]:
        ctx.exit(say("not everything could be audited; the report says what and why", 1))


class _Bars:
    """On standard error, if that is a terminal: that it is loading, then a bar for what is done with a collection."""

    def __init__(self) -> None:
        self.key: tuple[str, str] | None = None
        self.bar: tqdm[Any] | None = None
        self.loading = ExitStack()

    def __enter__(self) -> "_Bars":
        from unembed.cli.terminal import working

        self.loading.enter_context(working("opening the store, loading the inverter"))
        return self

    def __exit__(self, *_: object) -> None:
        self.loading.close()
        if self.bar is not None:
            self.bar.close()

    def show(self, collection: str, what: str, done: int, of: int | None) -> None:
        """As `audit.Progress`."""
        if not sys.stderr.isatty():
            return
        if self.key != (collection, what):
            from tqdm import tqdm

            self.__exit__()
            self.key = collection, what
            label = f"{printable(collection)[-40:]}: {what}"
            self.bar = tqdm(total=of, desc=label, unit=" rows", leave=False, dynamic_ncols=True)
        assert self.bar is not None
        self.bar.update(done - self.bar.n)
