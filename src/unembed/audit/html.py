"""A report as one HTML file: no script, nothing fetched, its style sheet inside.

Recovered text is hostile input. The template escapes whatever it is given, controls and direction overrides are
shown as such, and a content security policy allows the one style sheet by its hash and nothing else.
"""

import base64
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from unembed import __version__
from unembed.audit import charts, defence_choice, inversion_test, values, verdict, wording
from unembed.audit.baseline import compare
from unembed.audit.findings import SEVERITIES, STATUSES, Audited, Finding, Rate, Recovered, Report, share
from unembed.audit.personal import KINDS
from unembed.audit.redaction import Redactor
from unembed.audit.rules import BASELINES, MEANINGS, RULES, Reference

EXAMPLES = 10  # of recovered texts, a collection
LONGEST_TEXT = 2_000  # characters that are shown of a text
STATUS_TITLES = {
    "proved": ("proved", "equal to the text in the store, or to its hash"),
    "exact": ("exact", "the encoder gives the recovered text the stored vector"),
    "near": ("near", "most words are right"),
    "topic": ("topic", "a topic, no more"),
    "nothing": ("nothing", "no more than of a random vector"),
}
KNOWN_BY = {
    "declared": "declared for the audit", "named": "named by the store", "identified": "identified from the vectors",
    "unknown": "unknown",
}  # fmt: skip


def render(
    report: Report, show_text: bool = False, baseline: Report | None = None, redactor: Redactor | None = None
) -> str:
    """The whole page.

    Args:
        show_text: whether recovered texts and truths are shown; else lengths, kinds of personal data and salted hashes.
        baseline: an earlier report; findings are marked as new, worse or unchanged.
        redactor: shared with other outputs of the same report.
    """
    css, template = _resources()
    policy = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    redactor = redactor or Redactor()
    collections = verdict.worst(report)
    page = template.render(
        css=Markup(css), policy=policy, version=__version__, report=report, final=verdict.verdict(report),
        ladder=verdict.LADDER, collections=collections, show_text=show_text,
        findings=_by_rule(report.findings, {} if baseline is None else compare(report, baseline)),
        stores=[_store(one) for one in collections], charts={id(one): _charts(one) for one in collections},
        examples=[(one, _examples(one, show_text, redactor)) for one in collections if one.recovered],
        personal=_personal(collections), test=inversion_test.filled(report),
        references=_references(report.findings), severities=MEANINGS,
        defences=_defences(report.defences), about=values.pairs(report.about),
        statuses=STATUS_TITLES, known_by=KNOWN_BY, attacks=verdict.ATTACKS,
        not_tried=_not_tried(collections), values=values.pairs, cost=verdict.cost,
    )  # fmt: skip
    return page.encode(errors="replace").decode()


@cache
def _resources() -> tuple[str, jinja2.Template]:
    folder = files("unembed.audit") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"report.html": (folder / "report.html").read_text(encoding="utf-8")}),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "named": wording.named, "unbroken": values.unbroken, "object_id": id,
        "percent": _percent,
    }  # fmt: skip
    return (folder / "report.css").read_text(encoding="utf-8"), environment.get_template("report.html")


def _percent(value: float) -> str:
    return values.unbroken(wording.percent(value))


def _by_rule(findings: Sequence[Finding], states: Mapping[str, str]) -> list[dict[str, Any]]:
    """Findings of one rule together, the worst rule first."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for one in findings:
        groups[one.rule].append(one)
    return [
        {
            "rule": RULES[rule],
            "severity": same[0].severity,
            "where": [
                {
                    "finding": one,
                    "state": states.get(one.fingerprint),
                    "evidence": values.evidence(one.evidence),
                    "said": _said(one),
                }
                for one in same
            ],
        }
        for rule, same in groups.items()
    ]


def _references(findings: Sequence[Finding]) -> list[Reference]:
    """Those of all findings, in the order of the rules."""
    rules = {one.rule for one in findings}
    return list(dict.fromkeys(one for rule in RULES.values() if rule.id in rules for one in rule.references))


def _said(finding: Finding) -> str:
    """Its message, "" where that is but the rule's title."""
    return "" if finding.message.rstrip(".") == RULES[finding.rule].title else finding.message


def _store(audited: Audited) -> dict[str, Any]:
    counts = Counter(one.severity for one in audited.findings)
    return {
        "audited": audited,
        "level": verdict.level_of(audited),
        "counts": [(name, verdict.counted(counts[name], name)) for name in SEVERITIES if counts[name]],
    }


def _charts(audited: Audited) -> dict[str, Any]:
    """Bars of statuses, and of token F1 with what chance gives."""
    statuses = []
    for status in STATUSES[:-1]:
        rate, baselines = audited.rate(status), audited.baselines(status)
        label = f"{status}: {wording.interval(rate)}"
        statuses.append((status, rate, baselines, charts.bar(rate, label, baselines, status)))
    scores: list[tuple[str, Rate, Markup]] = []
    for name, f1 in (
        ("of recovered texts", audited.token_f1), (BASELINES["shuffled"], audited.chance_f1),
        (BASELINES["random"], audited.random_f1),
    ):  # fmt: skip
        if f1 is not None:
            label = f"token F1 {name}: {f1.value:.2f}, 95 % interval {f1.low:.2f} to {f1.high:.2f}"
            scores.append((name, f1, charts.bar(f1, label, kind="score" if f1 is audited.token_f1 else "nothing")))
    return {"statuses": statuses, "scores": scores, "measured": sum(audited.status_counts.values())}


def _examples(audited: Audited, show_text: bool, redactor: Redactor) -> list[dict[str, Any]]:
    """The rows of which most came back."""
    order = sorted(audited.recovered, key=lambda one: (STATUSES.index(one.status), -(one.score or 0.0)))
    return [_example(one, show_text, redactor) for one in order[:EXAMPLES]]


def _example(row: Recovered, show_text: bool, redactor: Redactor) -> dict[str, Any]:
    found: dict[str, Any] = {
        "row": row,
        "kinds": [(KINDS[kind].title if kind in KINDS else kind, n) for kind, n in row.entities.items() if n],
    }
    for name, text in (("text", row.text), ("truth", row.truth)):
        found[name] = text if text is None else (
            wording.visible(text, LONGEST_TEXT) if show_text
            else f"{len(text):,} characters, {redactor.mark(text)}"
        )  # fmt: skip
    return found


def _personal(collections: Sequence[Audited]) -> list[tuple[Audited, str, Mapping[str, int], str]]:
    """Rows of the table, by collection and kind."""
    return [
        (one, KINDS[kind].title if kind in KINDS else kind, n, wording.interval(_recovered(n)))
        for one in collections
        for kind, n in one.personal.items()
    ]


def _recovered(n: Mapping[str, int]) -> Rate:
    return share(n.get("recovered", 0), n.get("truth", 0))


def _defences(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    rows = defence_choice.ordered(rows)
    chosen, why = defence_choice.choose(rows)
    return {"rows": rows, "chosen": chosen, "why": why, "chart": charts.plane(rows, chosen)}


def _not_tried(collections: Sequence[Audited]) -> list[tuple[str, list[str]]]:
    """Sentences with the collections that they hold for."""
    where: dict[str, list[str]] = defaultdict(list)
    for one in collections:
        for line in one.not_tried:
            where[line].append(one.collection)
    return list(where.items())
