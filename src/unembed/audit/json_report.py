"""A report as JSON, for other programs and as a later audit's baseline."""

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unembed.audit.findings import STATUSES, Recovered, Report
from unembed.audit.redaction import Redactor
from unembed.audit.rules import RULES
from unembed.errors import DataError, printable
from unembed.files.json_files import read_json

FORMAT = {"format": "unembed-audit", "format_version": 1}
LONGEST_TEXT, LONGEST_ID = 10_000, 1_000  # characters


def to_json(report: Report, show_text: bool = False, redactor: Redactor | None = None) -> dict[str, Any]:
    """All of a report, JSON-ready.

    Args:
        show_text: whether recovered texts and truths are in it; else their lengths and salted hashes.
        redactor: shared with other outputs of the same report.
    """
    redactor = redactor or Redactor()
    collections = []
    for audited in report.collections:
        rest = dataclasses.replace(audited, recovered=(), findings=())
        found = [plain(one) | {"fingerprint": one.fingerprint} for one in audited.findings]
        recovered = [_row(one, show_text, redactor) for one in audited.recovered]
        collections.append(plain(rest) | {"level": audited.level, "findings": found, "recovered": recovered})
    whole = plain(dataclasses.replace(report, collections=()))
    return {**FORMAT, "level": report.level, **whole, "collections": collections}


def from_json(data: Any, source: str = "report") -> Report:
    """The report of `to_json`. Texts that were redacted are "" and None.

    Raises:
        DataError: it is not such a report; `source` is named.
    """
    if not isinstance(data, dict) or {key: data.get(key) for key in FORMAT} != FORMAT:
        raise DataError(f"{printable(source)}: is no JSON report of an audit in format version 1")
    try:
        report = _adapter().validate_python(_shown(data))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{printable(source)}: {printable(where)}: {printable(first['msg'])}") from error
    for audited in report.collections:
        for finding in audited.findings:
            if finding.rule not in RULES or finding.severity not in RULES[finding.rule].severities:
                what = printable(f"{finding.rule}, {finding.severity}")
                raise DataError(f"{printable(source)}: no such finding: {what}; a newer version may have made it")
        for counts in (audited.status_counts, audited.chance_counts, audited.random_counts):
            if not counts.keys() <= {*STATUSES} or any(n < 0 for n in counts.values()):
                raise DataError(f"{printable(source)}: counts of {printable(audited.collection)!r} are not by status")
    return report


def read_report(path: str | Path) -> Report:
    """A report that was written as JSON. Raises DataError."""
    path = Path(path)
    return from_json(read_json(path, DataError), str(path))


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def _row(row: Recovered, show_text: bool, redactor: Redactor) -> dict[str, Any]:
    cut = dataclasses.replace(
        row,
        id=row.id[:LONGEST_ID],
        text=row.text[:LONGEST_TEXT],
        truth=None if row.truth is None else row.truth[:LONGEST_TEXT],
    )
    redacted = {"text": redactor.redacted(row.text), "truth": redactor.redacted(row.truth)}
    found: dict[str, Any] = plain(cut)
    return found if show_text else found | redacted


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    """With "" for what is redacted."""
    collections = data.get("collections")
    if not isinstance(collections, list):
        return data
    return data | {"collections": [_collection(one) for one in collections]}


def _collection(data: Any) -> Any:
    recovered = data.get("recovered") if isinstance(data, dict) else None
    if not isinstance(recovered, list):
        return data
    rows = [
        row | {"text": "", "truth": None} if isinstance(row, dict) and isinstance(row.get("text"), dict) else row
        for row in recovered
    ]
    return data | {"recovered": rows}


def plain(value: Any) -> Any:
    """JSON-ready; numbers that JSON has not are null, and what UTF-8 cannot write is "?"."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
