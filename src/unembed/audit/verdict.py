"""What a whole audit comes to, in sentences for who did not run it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from unembed.audit.findings import SEVERITIES, STATUSES, Audited, Report
from unembed.audit.rules import BASELINES, RULES, STATUS_SAYS
from unembed.audit.wording import interval, listed, numbered, percent

# What a level means for who is responsible for the store. `clear` and `untested` are no statuses: texts in clear need
# no inversion, and where no attack could be tried nothing is known.
HEADLINES = {
    "clear": "Whoever gets a copy reads the texts: they lie beside the vectors in clear.",
    "proved": "Whoever gets a copy can recover whole texts from the vectors, word for word.",
    "exact": "Whoever gets a copy can recover whole texts from the vectors; the encoder confirms them.",
    "near": "Whoever gets a copy can recover most words of texts from the vectors.",
    "topic": "Whoever gets a copy can tell what texts are about from the vectors.",
    "nothing": "The attacks that were tried recovered nothing above chance.",
    "untested": "No vector was inverted: what they give away is not known.",
}
# The same in a few words, least first.
LADDER = {
    "nothing": "nothing above chance", "untested": "not tested", "topic": "topics", "near": "most words",
    "exact": "whole texts, confirmed by the encoder", "proved": "whole texts, proved", "clear": "texts in clear",
}  # fmt: skip
ORDER = ("clear", *STATUSES[:-1], "untested", "nothing")  # worst first: what is not known is no good news
ATTACKS = {
    "blind": "blind inversion, which makes no encoder call",
    "guided": "guided inversion, which embeds candidates with the encoder",
    "aligned": "inversion through an aligner, from another encoder's space",
}


@dataclass(frozen=True)
class Verdict:
    """level: of `ORDER`. severity: of the worst finding. headline: one sentence. basis: sentences that it rests on."""

    level: str
    severity: str
    headline: str
    basis: tuple[str, ...]


def level_of(audited: Audited) -> str:
    """What decides for a collection, of `ORDER`."""
    if any(one.rule == "text-in-clear" for one in audited.findings):
        return "clear"
    return audited.level if audited.attack and sum(audited.status_counts.values()) else "untested"


def worst(report: Report) -> list[Audited]:
    """The collections, worst first."""
    return sorted(report.collections, key=lambda one: (ORDER.index(level_of(one)), -_severity(one)))


def verdict(report: Report) -> Verdict:
    """Of the worst collection."""
    order = worst(report)
    level = level_of(order[0]) if order else "untested"
    tested = [one for one in order if sum(one.status_counts.values())]
    basis = []
    if order:
        rows = sum(sum(one.status_counts.values()) for one in tested)
        basis.append(
            f"{numbered(len(order), 'collection')} of {numbered(len({one.store for one in order}), 'store')}; "
            f"{numbered(rows, 'sampled row')} inverted. The worst collection decides."
        )
    decisive = next((one for one in tested if level_of(one) == level), tested[0] if tested else None)
    if decisive is not None:
        basis += rests_on(decisive)
    if level == "nothing":
        basis.append("That is no proof that nothing can be recovered: other attacks and more time may.")
    findings = report.findings
    severity = findings[0].severity if findings else "note"
    counts = Counter(one.severity for one in findings)
    said = listed([counted(counts[one], one) for one in SEVERITIES if counts[one]])
    basis.append(f"Findings: {said}; the first is: {RULES[findings[0].rule].title}." if findings else "No findings.")
    return Verdict(level, severity, HEADLINES[level], tuple(basis))


def counted(n: int, severity: str) -> str:
    """So many findings of a severity."""
    return numbered(n, severity) if severity == "note" else f"{n:,} {severity}"


def cost(attacks: Iterable[str], seconds: float, calls: int) -> str:
    """What attacks took. A blind one asks no encoder; its texts are embedded afterwards, to judge them."""
    if {*attacks} - {"blind", ""}:
        return f"{seconds:,.0f} seconds, {numbered(calls, 'encoder call')}"
    judged = f", {numbered(calls, 'text')} embedded to judge what came back" if calls else ""
    return f"{seconds:,.0f} seconds{judged}"


def rests_on(audited: Audited) -> list[str]:
    """The figures behind a collection's level, with what chance gives."""
    found = []
    whole = [status for status in STATUSES[:-1] if audited.status_counts.get(status)]
    n = sum(audited.status_counts.values())
    for status in whole[:1]:
        rate = audited.rate(status)
        beside = listed([f"{percent(value)} {BASELINES[name]}" for name, value in audited.baselines(status).items()])
        chance = f", beside {beside}" if beside else ""
        count = f"{audited.status_counts[status]:,} of {n:,} sampled texts"
        found.append(f"{count} {STATUS_SAYS[status]} ({interval(rate)}){chance}.")
    if audited.token_f1 is not None:
        beside = listed(
            [
                f"{rate.value:.2f} {what}"
                for rate, what in ((audited.random_f1, BASELINES["random"]), (audited.chance_f1, BASELINES["shuffled"]))
                if rate is not None
            ]
        )
        f1 = audited.token_f1
        chance = f", beside {beside}" if beside else ""
        found.append(f"Token F1 {f1.value:.2f} (95 % interval {f1.low:.2f} to {f1.high:.2f}){chance}.")
    return found


def _severity(audited: Audited) -> float:
    return max((SEVERITIES[one.severity] for one in audited.findings), default=0.0)
