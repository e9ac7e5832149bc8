"""The terminal's summary of an audit: the verdict, a line a collection, findings, and what was not read.

Names, locations and messages are foreign text: whatever is printed went through `printable`. No recovered text is.
Lines are broken here, since rich breaks them at no-break spaces too, and fills table rows with spaces to their end.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unembed.audit import defence_choice
from unembed.audit.baseline import compare
from unembed.audit.findings import SEVERITIES, Audited, Finding, Report
from unembed.audit.rules import RULES
from unembed.audit.values import unbroken
from unembed.audit.verdict import LADDER, level_of, verdict, worst
from unembed.audit.wording import named

STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "note": "dim"}
MOST = 20  # lines of findings, and of what was not read
LONGEST_LINE = 400  # characters of a message
LONGEST_STORE = 32  # characters of a store's location beside a collection's name
LABEL = 11  # cells before what stands beside a label


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
    _print(out, Text(final.headline, style=STYLES[final.severity] if SEVERITIES[final.severity] else "bold"))
    for line in final.basis:
        _print(out, Text(named(line, LONGEST_LINE)))
    places = _places(report)
    if report.collections:
        _table(out, _stores(worst(report), places))
    _findings(out, report, {} if baseline is None else compare(report, baseline), places)
    _list(out, "not read", report.unread)
    _list(out, "not tried", list(dict.fromkeys(line for one in report.collections for line in one.not_tried)))
    show_defences(out, report)
    for path in written:
        _labelled(out, "report", Text(named(str(path), LONGEST_LINE)))
    if gate:
        said = f"{len(gate):,} finding" + ("s reach" if len(gate) > 1 else " reaches") + " the gate"
        _labelled(out, "gate", Text(said, style="bold red"))


def show_defences(out: Console, report: Report) -> None:
    """What each defence takes from the attack and from the search, and which is recommended, if they were priced."""
    if not report.defences:
        return
    rows = defence_choice.ordered(report.defences)
    chosen, why = defence_choice.choose(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("form", overflow="fold")
    for name in ("bytes", f"what comes back ({named(str(rows[0].get('measure', 'leak')))})", "recall"):
        table.add_column(name, justify="right")
    for number, row in enumerate(rows):
        size = row.get("bytes")
        table.add_row(
            Text(named(row["name"]), style="bold" if number == chosen else ""),
            f"{size:,}" if isinstance(size, int) else "",
            f"{row['leak']['value']:.2f}",
            f"{row['recall']['value']:.2f}",
        )
    _table(out, table)
    line = Text("" if chosen is None else f"{named(rows[chosen]['name'])}: ", style="bold")
    _labelled(out, "defences", line.append(why, style="not bold"))


def _places(report: Report) -> dict[tuple[str, str], tuple[str, str]]:
    """Names of collections, and their stores where several have one of that name."""
    same = Counter(one.collection for one in report.collections)
    stores = {one.store for one in report.collections}
    shown = _middle if len({*map(_middle, stores)}) == len(stores) else named
    return {
        (one.store, one.collection): (named(one.collection), shown(one.store) if same[one.collection] > 1 else "")
        for one in report.collections
    }


def _middle(store: str) -> str:
    """A location without its middle: locations often differ at the end only."""
    shown, half = named(store, LONGEST_LINE), LONGEST_STORE // 2
    return shown if len(shown) <= LONGEST_STORE else f"{shown[: half - 4]}…{shown[-half - 3 :]}"


def _stores(collections: Sequence[Audited], places: Mapping[tuple[str, str], tuple[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("collection", overflow="fold")
    table.add_column("what comes back", overflow="fold")
    for name in ("rows", "sampled", "token F1"):
        table.add_column(name, justify="right")
    table.add_column("encoder", overflow="fold")
    for one in collections:
        name, store = places[one.store, one.collection]
        table.add_row(
            Text(name).append(f"\n{store}" if store else "", style="dim"),
            Text(LADDER[level_of(one)], style="bold"),
            "?" if one.rows is None else f"{one.rows:,}",
            f"{one.sampled:,}",
            "" if one.token_f1 is None else f"{one.token_f1.value:.2f}",
            Text(named(one.encoder or "unknown")),
        )
    return table


def _findings(
    out: Console, report: Report, states: Mapping[str, str], places: Mapping[tuple[str, str], tuple[str, str]]
) -> None:
    """The worst findings, those that are known already as a count."""
    fresh = [one for one in report.findings if states.get(one.fingerprint) != "unchanged"]
    for one in fresh[:MOST]:
        name, store = places[one.store, one.collection]
        title, message = RULES[one.rule].title, named(one.message, LONGEST_LINE)
        line = Text(f"{name} ({store}): " if store else f"{name}: ")
        # A message that begins with the title is that sentence, not a second one.
        begins = message.startswith(title)
        line.append(title if begins else f"{title}.", style="bold")
        _labelled(
            out, one.severity, line.append(message[len(title) :] if begins else f" {message}"), STYLES[one.severity]
        )
    rest = Counter(one.severity for one in fresh[MOST:])
    if rest:
        _labelled(out, "", Text(f"and {rest.total():,} more in the report", style="dim"))
    if known := len(report.findings) - len(fresh):
        _labelled(out, "", Text(f"{known:,} unchanged since the baseline", style="dim"))


def _list(out: Console, label: str, lines: Sequence[str]) -> None:
    for line in lines[:MOST]:
        _labelled(out, label, Text(named(line, LONGEST_LINE), style="dim"))
    if len(lines) > MOST:
        _labelled(out, label, Text(f"and {len(lines) - MOST:,} more in the report", style="dim"))


def _labelled(out: Console, label: str, content: Text, style: str = "dim") -> None:
    for number, line in enumerate(_wrapped(content, max(1, out.width - LABEL))):
        before = Text().append(f"{'' if number else label:<{LABEL}}", style=style)
        out.print(before.append_text(line), soft_wrap=True)


def _print(out: Console, content: Text) -> None:
    for line in _wrapped(content, out.width):
        out.print(line, soft_wrap=True)


def _table(out: Console, table: Table) -> None:
    """Without spaces at the ends of its lines."""
    for segments in out.render_lines(table, pad=False):
        line = Text.assemble(*((one.text, one.style or "") for one in segments))
        line.rstrip()
        out.print(line, soft_wrap=True)


def _wrapped(content: Text, width: int) -> list[Text]:
    """Lines of at most `width` cells, broken at spaces; a longer word is folded."""
    text = content.copy()
    text.plain = unbroken(content.plain)  # as long, so that styles stay where they are
    plain, start, breaks = text.plain, 0, []
    for word in re.finditer(r"[^ ]+ *", plain):
        end = word.start() + len(word[0].rstrip(" "))
        if word.start() > start and cell_len(plain[start:end]) > width:
            start = word.start()
            breaks.append(start)
        if cell_len(plain[start:end]) > width:
            for piece in chop_cells(plain[start:end], width)[:-1]:
                start += len(piece)
                breaks.append(start)
    lines = list(text.divide(breaks))
    for line in lines:
        line.rstrip()
    return lines
