"""What is known already: findings of an earlier report, and a gate that counts what is new or worse."""

from unembed.audit.findings import SEVERITIES, STATUSES, Finding, Report

LEVELS = (*STATUSES[:-1], "any")  # of --fail-on, the most lenient first


def compare(report: Report, baseline: Report) -> dict[str, str]:
    """By fingerprint, whether a finding is `new`, `worse` than in the earlier report, or `unchanged`.

    Worse is one of higher severity, or whose share of rows lies above the earlier one's, intervals apart.
    """
    known = {one.fingerprint: one for one in baseline.findings}
    return {one.fingerprint: _state(one, known.get(one.fingerprint)) for one in report.findings}


def reached(report: Report, level: str, baseline: Report | None = None) -> list[Finding]:
    """The findings that reach a level of `LEVELS`; a gate fails where there is one.

    `near` is reached by texts of which most words come back or more, above chance; `any` by every finding of at least
    low severity. With a baseline only new or worse findings count.
    """
    states = {} if baseline is None else compare(report, baseline)
    statuses = STATUSES[: STATUSES.index(level) + 1] if level != "any" else ()
    rules = {f"invertible-{status}" for status in statuses}
    return [
        one
        for one in report.findings
        if (SEVERITIES[one.severity] > 0 if level == "any" else one.rule in rules)
        and states.get(one.fingerprint, "new") != "unchanged"
    ]


def _state(now: Finding, before: Finding | None) -> str:
    if before is None:
        return "new"
    if SEVERITIES[now.severity] > SEVERITIES[before.severity]:
        return "worse"
    low, high = _end(now, "low"), _end(before, "high")
    return "worse" if low is not None and high is not None and low > high else "unchanged"


def _end(finding: Finding, name: str) -> float | None:
    """An end of the interval of a finding's share, None where it has none."""
    share = finding.evidence.get("share")
    end = share.get(name) if isinstance(share, dict) else None
    return end if isinstance(end, float | int) else None
