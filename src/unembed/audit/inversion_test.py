"""The embedding inversion test of OWASP's AI Testing Guide (AITG-APP-08), filled in from a report.

Its four steps, what it calls a sign of vulnerability, and what it expects of a secure system; in our words.
"""

from dataclasses import dataclass

from unembed.audit.findings import STATUSES, Report
from unembed.audit.personal import KINDS
from unembed.audit.verdict import ATTACKS, cost, worst
from unembed.audit.wording import listed, numbered, percent

FAILED, PASSED, OPEN = "sign of vulnerability", "as expected", "not covered"


@dataclass(frozen=True)
class Filled:
    """steps: titles and what was done. criteria: each with a result (`FAILED`, `PASSED`, `OPEN`) and its reason."""

    steps: tuple[tuple[str, str], ...]
    criteria: tuple[tuple[str, str, str], ...]


def filled(report: Report) -> Filled:
    """Steps and criteria with the figures of a report."""
    collections = worst(report)
    sampled = sum(sum(one.status_counts.values()) for one in collections)
    rows = sum(one.rows or 0 for one in collections)
    kinds = _kinds(report, "truth")
    attacks = sorted({ATTACKS.get(one.attack, one.attack) for one in collections if one.attack})
    encoders = sorted({one.encoder for one in collections if one.encoder})
    calls, seconds = (sum(getattr(one, name) for one in collections) for name in ("encoder_calls", "seconds"))
    counts = {status: sum(one.status_counts.get(status, 0) for one in collections) for status in STATUSES}
    titles = {"topic": "only the topic"}
    shares = [
        f"{counts[one]:,} {titles.get(one, one)} ({percent(counts[one] / sampled)})" for one in STATUSES if sampled
    ]
    steps = (
        (
            "Identify embeddings that are likely sensitive",
            f"Looked at: {numbered(len(collections), 'collection')} with {numbered(rows, 'row')}. "
            + (
                f"Their sampled texts have {listed(kinds)}."
                if kinds
                else "No text with personal data was seen in them."
            ),
        ),
        (
            "Apply embedding inversion",
            f"By {listed(attacks)}; encoder: {listed(encoders) or 'unknown'}. "
            f"It took {cost([one.attack for one in collections], seconds, calls)}."
            if attacks
            else "No attack could be tried.",
        ),
        (
            "Reconstruct the texts",
            f"Of {sampled:,} sampled rows: {listed(shares)}." if shares else "None was inverted.",
        ),
        ("Evaluate quality and sensitivity", _quality(report)),
    )
    return Filled(steps, _criteria(report, sampled))


def _quality(report: Report) -> str:
    scores = [one.token_f1 for one in report.collections if one.token_f1 is not None]
    f1 = ""
    if scores:
        best = max(one.value for one in scores)
        f1 = f"Token F1 with the store's own texts is {best:.2f} where it is highest. "
    kinds = _kinds(report, "recovered")
    return f1 + (f"Came back with their texts: {listed(kinds)}." if kinds else "No personal data came back.")


def _criteria(report: Report, sampled: int) -> tuple[tuple[str, str, str], ...]:
    levels = {one.level for one in report.collections}
    rules = {one.rule for one in report.findings}
    text = levels & {"proved", "exact", "near"}
    kinds = _kinds(report, "recovered")
    had = _kinds(report, "truth")
    return (
        (
            "Significant portions of texts are recovered",
            FAILED if text else PASSED if sampled else OPEN,
            "Whole texts or most of their words came back, above chance." if text
            else "Not above chance." if sampled else "No vector was inverted.",
        ),
        (
            "Sensitive information is recovered",
            FAILED if "personal-data-recovered" in rules else PASSED if had else OPEN,
            f"{listed(kinds)[:1].upper()}{listed(kinds)[1:]}." if "personal-data-recovered" in rules
            else "None of the personal data in the sampled texts came back above chance." if had
            else "No sampled text with personal data was there to compare with.",
        ),
        (
            "No encryption or obfuscation protects vectors at rest",
            FAILED,
            "The audit read them without a key to decrypt them.",
        ),
        (
            "Inversion yields more than generic or nonsensical text",
            FAILED if levels - {"nothing"} else PASSED if sampled else OPEN,
            "Of a secure system only such text comes back.",
        ),
        ("Access to vectors is monitored", OPEN, "An audit of stored data cannot tell."),
    )  # fmt: skip


def _kinds(report: Report, name: str) -> list[str]:
    """Kinds of personal data of which texts have some, or had some recovered."""
    return [
        KINDS[kind].title
        for kind in KINDS
        if any(one.personal.get(kind, {}).get(name, 0) for one in report.collections)
    ]
