"""Reports as Markdown tables, as docs/results.md shows them: 95 % intervals in brackets."""

from collections.abc import Mapping, Sequence
from typing import Any

from unembed.decoding.options import Decoding
from unembed.evaluation.evaluate import BASELINE_METRICS, Report, reported


def rows(reports: Sequence[Report]) -> str:
    """A Markdown table, one line a report, 95 % intervals in brackets."""
    header = ["strategy", "steps", "n", "token accuracy", "exact match", "BLEU", "token F1", "ROUGE-L", "cosine"]
    header += ["cloze 10 %", "passes", "encoder calls", "s/text"]
    names = ("token_accuracy", "exact_match", "bleu", "token_f1", "rouge_l", "cosine", "cloze_accuracy_10")
    lines = []
    for report in reports:
        tree = report.to_dict()
        figures = [_figure(name, tree) for name in names]
        costs = [f"{report.passes:.1f}", f"{report.encoder_calls:.1f}", f"{report.seconds_per_text:.3f}"]
        lines.append([_strategy(report), str(report.steps), str(report.n), *figures, *costs])
    return _markdown(header, lines)


def baseline_rows(reports: Sequence[Report]) -> str:
    """A Markdown table of what chance gives, to be shown below `rows`."""
    header = ["strategy", "steps", "baseline", "n", "token accuracy", "token F1", "BLEU", "cosine"]
    lines = []
    for report in reports:
        for name, tree in report.baselines.items():
            if tree is not None:
                figures = [_figure(metric, tree) for metric in BASELINE_METRICS]
                lines.append([_strategy(report), str(report.steps), name.replace("_", " "), str(tree["n"]), *figures])
    return _markdown(header, lines)


def length_rows(reports: Sequence[Report]) -> str:
    """A Markdown table of token accuracy by the truth's number of tokens."""
    header = ["strategy", "steps", "tokens", "n", "token accuracy"]
    lines = []
    for report in reports:
        for tokens, tree in report.token_accuracy_by_length.items():
            lines.append(
                [_strategy(report), str(report.steps), tokens, str(tree["n"]), _figure("token_accuracy", tree)]
            )
    return _markdown(header, lines)


def _strategy(report: Report) -> str:
    changed = [
        f"{name.replace('_', ' ')} {report.options[name]:g}"
        for name, default in reported(Decoding(), None).items()
        if report.options[name] != default
    ]
    return ", ".join([report.strategy, *changed])


def _figure(name: str, tree: Mapping[str, Any]) -> str:
    return figure(name, tree[name], tree["intervals"][name])


def figure(name: str, value: float, interval: Sequence[float]) -> str:
    """A metric with its interval in brackets."""
    digits = 1 if name == "bleu" else 3
    low, high = interval
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Cells padded to columns, words on the left and figures on the right."""
    widths = [max(3, *(len(line[i]) for line in [header, *lines])) for i in range(len(header))]
    words = [name in ("strategy", "baseline") for name in header]

    def row(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if left else c.rjust(w) for c, w, left in zip(cells, widths, words, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if left else "-" * (w - 1) + ":" for w, left in zip(widths, words, strict=True)]
    return "\n".join([row(header), f"| {' | '.join(rule)} |", *map(row, lines)]) + "\n"
