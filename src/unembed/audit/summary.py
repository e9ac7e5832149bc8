"""The terminal's summary of an audit: the verdict, a line a collection, findings, and what was not read.

Names, locations and messages are foreign text: whatever is printed went through `printable`. No recovered text is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unembed.audit.baseline import compare
from unembed.audit.findings import SEVERITIES, Audited, Finding, Report
from unembed.audit.rules import RULES
from unembed.audit.verdict import LADDER, level_of, verdict, worst
from unembed.audit.wording import named

STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "note": "dim"}
MOST = 20  # lines of findings, and of what was not read
LONGEST_LINE = 400  # characters of a message


def show_audit(
    out: Console,
    report: Report,
    baseline: Report | None = None,
    written: Sequence[Path] = (),
    gate: Sequence[Finding] = (),
) -> None:
    """Print the summary.

    Args:
        baseline: an earlier report; findings that it has are left to a count.
        written: files of the report.
        gate: findings that reached the gate, see `baseline.reached`.
    """
    final = verdict(report)
    out.print(Text(final.headline, style=STYLES[final.severity] if SEVERITIES[final.severity] else "bold"))
    for line in final.basis:
        out.print(Text(named(line, LONGEST_LINE)))
    if report.collections:
        out.print(_stores(worst(report)))
    _findings(out, report, {} if baseline is None else compare(report, baseline))
    _list(out, "not read", report.unread)
    _list(out, "not tried", list(dict.fromkeys(line for one in report.collections for line in one.not_tried)))
    for path in written:
        out.print(_labelled("report", Text(named(str(path), LONGEST_LINE))))
    if gate:
        said = f"{len(gate):,} finding" + ("s reach" if len(gate) > 1 else " reaches") + " the gate"
        out.print(_labelled("gate", Text(said, style="bold red")))


def _stores(collections: Sequence[Audited]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("collection", overflow="fold")
    table.add_column("what comes back", overflow="fold")
    for name in ("rows", "sampled", "token F1"):
        table.add_column(name, justify="right")
    table.add_column("encoder", overflow="fold")
    for one in collections:
        table.add_row(
            Text(named(one.collection)),
            Text(LADDER[level_of(one)], style="bold"),
            "?" if one.rows is None else f"{one.rows:,}",
            f"{one.sampled:,}",
            "" if one.token_f1 is None else f"{one.token_f1.value:.2f}",
            Text(named(one.encoder or "unknown")),
        )
    return table


def _findings(out: Console, report: Report, states: Mapping[str, str]) -> None:
    """The worst findings, those that are known already as a count."""
    fresh = [one for one in report.findings if states.get(one.fingerprint) != "unchanged"]
    for one in fresh[:MOST]:
        line = Text(f"{RULES[one.rule].title}: ", style="bold")
        line.append(f"{named(one.collection)}. {named(one.message, LONGEST_LINE)}", style="not bold")
        out.print(_labelled(one.severity, line, STYLES[one.severity]))
    rest = Counter(one.severity for one in fresh[MOST:])
    if rest:
        out.print(_labelled("", Text(f"and {rest.total():,} more in the report", style="dim")))
    if known := len(report.findings) - len(fresh):
        out.print(_labelled("", Text(f"{known:,} unchanged since the baseline", style="dim")))


def _list(out: Console, label: str, lines: Sequence[str]) -> None:
    for line in lines[:MOST]:
        out.print(_labelled(label, Text(named(line, LONGEST_LINE), style="dim")))
    if len(lines) > MOST:
        out.print(_labelled(label, Text(f"and {len(lines) - MOST:,} more in the report", style="dim")))


def _labelled(label: str, content: Text, style: str = "dim") -> Table:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(min_width=9, no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(Text(label, style=style), content)
    return line
