"""Values of a report in words: evidence, what vectors are like, how the audit was made.

Names that are not known here, as of a later version's report, are shown as they are.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from unembed.audit.json_report import plain
from unembed.audit.personal import KINDS
from unembed.audit.rules import BASELINES
from unembed.audit.verdict import ATTACKS
from unembed.audit.wording import listed, named, numbered, percent, visible

LONGEST = 500  # characters of a value
MOST = 20  # traces that are listed
NAMES = {
    # Of vectors, as in `vectors.Statistics.report`, and the thresholds of statuses.
    "rows": "rows read", "unreadable": "rows with NaN or infinite numbers", "zero": "rows of zeros alone",
    "length": "lengths of the vectors", "deviation": "standard deviation", "unit": "all of length 1",
    "duplicates": "rows that copy another", "constant": "length of the mean direction, 0 to 1",
    "dead": "dimensions that never change", "number": "format of the numbers", "distinct": "values of a dimension",
    "thresholds": "least for a topic", "token_f1": "token F1",
    # Of findings.
    "baselines": "by chance", "sampled": "sampled rows",
    # Of how it was made.
    "unembed": "version of unembed", "sha256": "SHA-256", "max_tokens": "tokens at most", "torch": "PyTorch",
    "interrupted": "ended by an interruption", "deadline": "ended by its deadline",
    "failed": "collections that failed", "asked": "asked of a remote encoder", "not_looked_for": "not looked for",
}  # fmt: skip
OPTIONS = {"deadline": "deadline", "sample": "rows to sample", "seconds": "seconds a row"}  # other names in `options`
SHARES = ("duplicates",)


def unbroken(text: str) -> str:
    """With no-break spaces between numbers and their "%"."""
    return re.sub(r"(?<=\d) %", "\u00a0%", text)


def evidence(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a finding's evidence."""
    rows = []
    traces = values.get("traces")
    if isinstance(traces, list | tuple):
        for trace in traces[:MOST]:
            count = "" if trace.get("count") is None else f" ({numbered(trace['count'], 'row')})"
            rows.append((named(trace.get("where") or "store"), named(trace["detail"]) + count))
        if len(traces) > MOST:
            rows.append(("more", f"{len(traces) - MOST:,} more in the JSON report"))
    rest = {key: value for key, value in values.items() if key != "traces"}
    kinds = rest.pop("kinds", {})
    for kind, n in kinds.items() if isinstance(kinds, dict) else ():
        title = KINDS[kind].title if kind in KINDS else kind
        said = f"in {numbered(n['truth'], 'text')}; {n['recovered']:,} came back with it; by chance {n['chance']:,}"
        rows.append((named(title), said))
    return rows + pairs(rest)


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text, without those that are not there."""
    found = plain(values)
    if "of" in found and isinstance(found.get("distinct"), int):
        found["distinct"] = f"{found['distinct']:,} in the median, among {numbered(found.pop('of'), 'row')}"
    return [
        (named(NAMES.get(key, key.replace("_", " "))), visible(unbroken(_said(key, value)), LONGEST))
        for key, value in found.items()
        if value is not None
    ]


def _said(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return _all(key, value)
    if isinstance(value, list):
        return " ".join(map(str, value)) if all(isinstance(one, str) for one in value) else json.dumps(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return percent(value) if key in SHARES else f"{value:.4g}"
    if isinstance(value, int):
        return str(value) if key == "seed" else f"{value:,}"
    return ATTACKS.get(value, value) if key == "attack" else str(value)


def _all(key: str, values: Mapping[str, Any]) -> str:
    """Values within a value, in one line."""
    if key == "baselines":
        return listed([f"{percent(value)} {BASELINES.get(name, name)}" for name, value in values.items()]) or "unknown"
    if key == "share" and values.keys() >= {"value", "low", "high", "n"}:
        interval = f"95 % interval {percent(values['low'])} to {percent(values['high'])}"
        return f"{percent(values['value'])} of {numbered(values['n'], 'text')}, {interval}"
    names = NAMES | OPTIONS if key == "options" else NAMES
    parts = [
        f"{names.get(name, name.replace('_', ' '))} {_said(name, value)}"
        for name, value in values.items()
        if value is not None
    ]
    return ", ".join(parts) or "none"
