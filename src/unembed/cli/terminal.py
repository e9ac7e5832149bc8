"""What a person sees: passes and searches as they go on, the recovered text beside the original, tables of figures.

Unusual here: recovered text is hostile input. Whatever is printed as text has its control characters made
visible first, so that no embedding and no argument can move the cursor or set the terminal's title.
Colours, width and whether there is a terminal at all are rich's to decide (NO_COLOR, FORCE_COLOR, TERM, COLUMNS).
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unembed.cli.options import Plan
from unembed.corpus.held_out import NATURAL
from unembed.decoding.options import Decoding
from unembed.errors import printable
from unembed.search.options import Search

if TYPE_CHECKING:
    from unembed.corpus.windows import Manifest
    from unembed.decoding.inversion import Inversion
    from unembed.encoders.tokenizer import Tokenizer
    from unembed.evaluation.evaluate import Report
    from unembed.inverter import Inverter

FRAME_SECONDS = 0.12  # a pass takes milliseconds, the eye does not
SHOW_SECONDS = 2.5  # so long at most for one text, however many passes
LABEL = len("recovered")
LONGEST_ID = 24  # characters of an id that are shown: a UUID's beginning tells rows apart
LONGEST = 600  # characters of an original that are shown
METRICS = {
    "token_accuracy": "token accuracy",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "cosine": "cosine",
    "cloze_accuracy_10": "cloze accuracy, 10 % masked",
}


def console() -> Console:
    """Standard output, without rich's guesses at what is markup or worth colouring."""
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say `what` on standard error while the block runs, if that is a terminal."""
    errors = Console(file=sys.stderr, highlight=False, markup=False)
    if not errors.is_terminal:
        yield
        return
    with errors.status(Text(what, style="dim")):
        yield


def beginning(text: str) -> str:
    """`printable`, cut where it would fill the screen."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ... ({len(shown):,} characters)"


def canvas_text(out: Console, tokenizer: "Tokenizer", ids: Sequence[int], changed: Sequence[bool]) -> Text:
    """The canvas up to its end as known so far: masks as dots, tokens of this pass highlighted."""
    mask = "." if out.options.ascii_only else "░"
    line = Text()
    joins = False  # whether the token before takes a piece without a space
    for token_id, new in zip(tokenizer.content(ids), changed, strict=False):
        if token_id == tokenizer.mask_id:
            line.append(" " * bool(line) + mask, style="dim")
            joins = False
            continue
        piece = tokenizer.token(token_id)
        apart = piece.startswith((" ", "[")) or bool(tokenizer.starts_word[token_id]) or not joins
        shown = printable(piece.removeprefix("##"))
        line.append(" " * (apart and bool(line)))
        line.append(shown, style="bold green" if new else "")
        joins = True
    return line


def show_inverting(
    out: Console,
    inverter: "Inverter",
    embedding: NDArray[np.float32],
    plan: Plan,
    row: int = 0,
) -> "tuple[Inversion, float]":
    """Invert one embedding (d,), printing a line a pass as it comes.

    Several candidates are decoded side by side, so of them there is nothing to see but the result; of a guided
    inversion, a line for each text that is better than those before.

    Args:
        row: the embedding's number among those of the same call.

    Returns:
        What came back, and the seconds that recovering it took, without pauses for the eye.
    """
    started = time.perf_counter()
    if plan.search is not None:
        inversion = show_search(out, inverter, embedding, plan.decoding, plan.search, row)
        return inversion, time.perf_counter() - started
    if plan.decoding.candidates > 1:
        with working("inverting"):
            several = plan.invert(inverter, embedding, first_row=row)
        return several[0], time.perf_counter() - started
    seconds = 0.0
    for frame in inverter.stream(embedding, plan.decoding, first_row=row):
        spent = time.perf_counter() - started
        seconds += spent
        canvas = canvas_text(out, inverter.tokenizer, frame.ids[0].tolist(), frame.changed[0].tolist())
        out.print(_row(f"pass {frame.step}", canvas))
        if not frame.done:
            time.sleep(max(0.0, min(FRAME_SECONDS, SHOW_SECONDS / frame.total) - spent))
        started = time.perf_counter()
    inversion = inverter.inversion(frame)
    if plan.measure_cosine:
        with working("measuring the cosine"):
            (inversion,) = inverter.measured([inversion], embedding[None])
    return inversion, seconds


def show_search(
    out: Console,
    inverter: "Inverter",
    embedding: NDArray[np.float32],
    decoding: Decoding,
    search: Search,
    row: int,
) -> "Inversion":
    """Search for one embedding's text, printing the best so far whenever it changes, words that are new highlighted."""
    before: list[str] = []
    with Live(console=out, transient=True, auto_refresh=False) as live:
        live.update(_row("", Text("searching", style="dim")), refresh=True)
        for inversion in inverter.search(embedding, decoding, search, first_row=row):
            words = printable(inversion.text).split(" ")
            if words != before:
                line = Text(f"{_cosine(inversion)}  ", style="dim")
                fresh = Counter(words) - Counter(before)
                for word in words:
                    line.append(word, style="bold green" if before and fresh[word] > 0 else "not dim")
                    line.append(" ")
                    fresh[word] -= 1
                live.console.print(_row(f"{inversion.seconds:.1f} s" if before else "blind", line))
                before = words
            live.update(_row("", Text(_spent(inversion, search), style="dim")), refresh=True)
    return inversion


def _spent(inversion: "Inversion", search: Search) -> str:
    """How much of what a search may spend is spent."""
    time_limit = "" if search.seconds is None else f" of {search.seconds:g}"
    call_limit = "" if search.max_calls is None else f" of {search.max_calls:,}"
    return f"{inversion.seconds:.1f}{time_limit} s, {inversion.encoder_calls:,}{call_limit} encoder calls"


def outcome(inversion: "Inversion") -> str:
    """How a guided inversion ended, and what it cost."""
    costs = f"after {inversion.seconds:.1f} s, {inversion.encoder_calls:,} encoder calls"
    if inversion.exact:
        return f"exact {costs}"
    if inversion.plausible:
        return f"not exact {costs}, which is all that it may spend"
    return f"nothing close was found {costs}: this may be no embedding of this encoder"


def show_round_trip(
    out: Console, tokenizer: "Tokenizer", original: str, inversion: "Inversion", truth: Sequence[int], seconds: float
) -> None:
    """The original, what came back, and how near it is.

    Args:
        truth: content tokens of the original.
        seconds: that the inversion took.
    """
    guided = inversion.seconds is not None
    hits = count_hits(tokenizer, inversion, truth)
    out.print(_row("original", Text(beginning(original))))
    out.print(_row("recovered", _marked(tokenizer, inversion, truth)))
    figures = [f"{hits} of {len(truth)} tokens in place ({hits / len(truth):.0%})"]
    if inversion.cosine is not None:
        figures.insert(0, f"cosine {inversion.cosine:.3f}")
    figures.append(outcome(inversion) if guided else f"{inversion.passes} passes, {seconds:.2f} s")
    out.print(_row("", Text(" · ".join(figures), style="dim")))
    for other in inversion.candidates[1:]:
        out.print(_row(_cosine(other), Text(printable(other.text), style="dim")))
    out.print()


def count_hits(tokenizer: "Tokenizer", inversion: "Inversion", truth: Sequence[int]) -> int:
    """Positions of the truth at which the same token came back."""
    return sum(a == b for a, b in zip(tokenizer.content(inversion.ids), truth, strict=False))


def plain_round_trip(original: str, inversion: "Inversion", hits: int, tokens: int) -> str:
    """The same as three plain lines, and a fourth where it was guided."""
    cosine = "" if inversion.cosine is None else f"cosine {inversion.cosine:.3f}, "
    lines = [f"original:  {beginning(original)}", f"recovered: {printable(inversion.text)}"]
    lines.append(f"{cosine}{hits} of {tokens} tokens in place")
    return "\n".join([*lines, outcome(inversion)] if inversion.seconds is not None else lines)


def show_inversions(
    out: Console, inversions: "Sequence[Inversion]", first_row: int, labels: Sequence[Mapping[str, Any]]
) -> None:
    """A line for each row: its number, id, cosine and text; others for what is kept and for how a search ended."""
    ids = [_value(label["id"]) if "id" in label else "" for label in labels]
    width = min(LONGEST_ID, max(4, out.width // 4), max(map(len, ids), default=0))
    before = [9, width, LABEL] if width else [9, LABEL]

    def show(row: str, row_id: str, label: Text, content: Text) -> None:
        cut = row_id if len(row_id) <= width else f"{row_id[: width - 3]}..."
        line = _grid(*before)
        line.add_row(row, *([Text(cut)] if width else []), label, content)
        out.print(line)

    for row, (inversion, row_id, label) in enumerate(zip(inversions, ids, labels, strict=True), first_row):
        if inversion.skipped is not None:
            show(str(row), row_id, Text(), Text(f"left out: {printable(inversion.skipped)}", style="dim"))
        else:
            show(str(row), row_id, Text(_cosine(inversion), style="dim"), Text(printable(inversion.text)))
        for other in inversion.candidates[1:]:
            show("", "", Text(), Text(printable(other.text), style="dim"))
        if kept := "  ".join(f"{printable(name)}: {_value(value)}" for name, value in label.get("keep", {}).items()):
            show("", "", Text(), Text(kept, style="dim", no_wrap=True, overflow="ellipsis"))
        if inversion.seconds is not None:
            show("", "", Text(), Text(outcome(inversion), style="dim"))


def show_report(out: Console, report: "Report") -> None:
    """An evaluation: every metric with its interval, and what chance gives."""
    texts = f"{report.n} whole texts" if report.tokens == NATURAL else f"{report.n} texts of {report.tokens} tokens"
    out.print(Text(f"{texts}, {report.strategy}, {report.steps} steps", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    for column in ("value", "95 % interval", "random vector", "shuffled pairs"):
        table.add_column(column, justify="right")
    for name, label in METRICS.items():
        digits = 1 if name == "bleu" else 3
        low, high = report.intervals[name]
        chance = [(report.baselines[key] or {}).get(name) for key in ("random_vector", "shuffled_pairs")]
        table.add_row(
            label,
            Text(f"{getattr(report, name):.{digits}f}", style="bold"),
            f"{low:.{digits}f} to {high:.{digits}f}",
            *("" if value is None else f"{value:.{digits}f}" for value in chance),
        )
    out.print(table)
    costs = f"{report.passes:.1f} passes and {report.encoder_calls:.1f} encoder calls a text"
    if report.calls_per_second is not None:
        costs += f" ({report.calls_per_second:.0f} a second)"
    if report.seconds_to_exact is not None:
        costs += f", {report.seconds_to_exact:.1f} s to an exact text in the median"
    out.print(
        f"{costs}; {report.seconds_per_text:.3f} s a text on {report.machine['cpu']} ({report.machine['device']})"
    )
    why = "too short" if report.tokens == NATURAL or isinstance(report.tokens, int) else "of another length"
    bad = f", {report.bad:,} rows are no texts" if report.bad else ""
    out.print(f"from all masks, the length not given; {report.skipped} texts were {why} and left out{bad}")


def show_manifest(out: Console, manifest: "Manifest") -> None:
    """What was prepared, part by part."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("part", overflow="fold")
    columns = ["train", "validation", "test"]
    for name in [*columns, "tokens", "duplicates"]:
        table.add_column(name, justify="right")
    for part in manifest.parts:
        counts = [part.passages[name] for name in columns] + [sum(part.tokens.values()), part.duplicates]
        table.add_row(printable(part.name), *(f"{count:,}" for count in counts))
    out.print(table)


def _marked(tokenizer: "Tokenizer", inversion: "Inversion", truth: Sequence[int]) -> Text:
    """The recovered text, green where its token is the truth's."""
    text = Text(printable(inversion.text), style="yellow")
    at = 0
    for place, token_id in enumerate(tokenizer.content(inversion.ids)):
        piece = printable(tokenizer.token(token_id).removeprefix("##"))
        start = text.plain.find(piece, at)
        if start < 0 or not piece:
            continue
        at = start + len(piece)
        if place < len(truth) and truth[place] == token_id:
            text.stylize("bold green", start, at)
    return text


def _value(value: Any) -> str:
    """An id or another kept value, on one line."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _cosine(inversion: "Inversion") -> str:
    return "" if inversion.cosine is None else f"{inversion.cosine:.3f}"


def _row(label: str, content: Text) -> Table:
    line = _grid(LABEL)
    line.add_row(Text(label, style="dim"), content)
    return line


def _grid(*widths: int) -> Table:
    """Narrow right-aligned columns, then one that takes the rest of the line and folds within itself."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in widths:
        table.add_column(justify="right", min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    return table
