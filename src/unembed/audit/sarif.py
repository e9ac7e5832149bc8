"""A report as SARIF 2.1.0, for code scanning and other dashboards of findings. No recovered text is in it.

Unusual: GitHub reads `security-severity` of rules only, but a finding's severity depends on figures. So a rule that
can have several severities is one rule for each, as in `invertible-near/high`. A finding that becomes worse is then a
new alert, and the old one is closed.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unembed import __version__
from unembed.audit.baseline import compare
from unembed.audit.findings import SEVERITIES, Finding, Report
from unembed.audit.json_report import plain
from unembed.audit.rules import RULES, Rule
from unembed.audit.verdict import verdict
from unembed.audit.wording import named
from unembed.errors import printable

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "note": "note"}
NOTE = {"level": "none", "kind": "informational"}  # the standard's combination for what is no problem
STATES = {"new": "new", "worse": "updated", "unchanged": "unchanged"}
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def to_sarif(report: Report, baseline: Report | None = None) -> dict[str, Any]:
    """All findings as one run. With a baseline each has its `baselineState`."""
    states = {} if baseline is None else compare(report, baseline)
    ids = [_id(rule, severity) for rule in RULES.values() for severity in rule.severities]
    final = verdict(report)
    skipped = [(one, "warning") for one in report.unread]
    skipped += [(f"{one.collection}: {line}", "note") for one in report.collections for line in one.not_tried]
    run = {
        "tool": {
            "driver": {
                "name": "unembed",
                "version": __version__,
                "rules": [_rule(rule, severity) for rule in RULES.values() for severity in rule.severities],
            }
        },
        "automationDetails": {"id": "unembed/audit/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    {"level": level, "message": {"text": named(line)}} for line, level in skipped
                ],
            }
        ],
        "results": [_result(one, ids, states) for one in report.findings],
        "properties": {"level": final.level, "verdict": final.headline, "about": plain(report.about)},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _id(rule: Rule, severity: str) -> str:
    return rule.id if len(rule.severities) == 1 else f"{rule.id}/{severity}"


def _rule(rule: Rule, severity: str) -> dict[str, Any]:
    links = "".join(f"\n- [{one.name}]({one.url})" for one in rule.references)
    score = SEVERITIES[severity]
    cwe = [f"external/cwe/{one.short.lower()}" for one in rule.references if one.short.startswith("CWE")]
    return {
        "id": _id(rule, severity),
        "name": "".join(word.capitalize() for word in rule.id.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.meaning},
        "help": {
            "text": rule.advice,
            "markdown": f"{rule.advice}\n{links}" if links else rule.advice,
        },
        "defaultConfiguration": {"level": LEVELS[severity]},
        "properties": {
            "tags": ["security", *cwe],
            "precision": "high",
            **({"security-severity": str(score)} if score else {}),
        },
    }


def _result(finding: Finding, ids: list[str], states: dict[str, str]) -> dict[str, Any]:
    rule = _id(RULES[finding.rule], finding.severity)
    state = states.get(finding.fingerprint)
    return {
        "ruleId": rule,
        "ruleIndex": ids.index(rule),
        **({"level": LEVELS[finding.severity]} if SEVERITIES[finding.severity] else NOTE),
        "message": {"text": printable(finding.message)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": location(finding.store)},
                    "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1},
                },
                "logicalLocations": [{"name": named(finding.collection)}],
            }
        ],
        # GitHub reads the first only; the second says whose it is.
        "partialFingerprints": {
            "primaryLocationLineHash": f"{finding.fingerprint}:1",
            "unembed/v1": finding.fingerprint,
        },
        **({"baselineState": STATES[state]} if state else {}),
        "properties": {"severity": finding.severity, "evidence": plain(finding.evidence)},
    }


def location(store: str) -> str:
    """A store's location as a URI: relative to the working directory where it lies in it."""
    if SCHEME.match(store):
        return quote(store, safe="/:?#[]@!$&'()*+,;=%~", errors="replace")
    path = Path(os.path.abspath(store.replace("\0", "\ufffd")))
    if path.is_relative_to(Path.cwd()):
        return quote(path.relative_to(Path.cwd()).as_posix(), errors="replace")
    return "file://" + quote(path.as_posix(), errors="replace")
