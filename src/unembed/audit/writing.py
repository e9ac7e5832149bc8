"""The files of a report, each whole or not at all."""

import json
import os
from pathlib import Path

from unembed.audit.findings import Report
from unembed.audit.html import render
from unembed.audit.json_report import to_json
from unembed.audit.redaction import Redactor
from unembed.audit.sarif import to_sarif
from unembed.files.atomic import atomic_file


def write_report(
    report: Report, folder: str | Path, show_text: bool = False, baseline: Report | None = None
) -> list[Path]:
    """Write `report.html`, `report.json` and `report.sarif`; their paths. Others of these names are replaced.

    With `show_text` recovered texts are in the first two, and only the user may read the files.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    redactor = Redactor()
    contents = {
        "report.html": render(report, show_text, baseline, redactor),
        "report.json": _json(to_json(report, show_text, redactor)),
        "report.sarif": _json(to_sarif(report, baseline)),
    }
    paths = [Path(folder) / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        with atomic_file(path) as temporary:
            mode = 0o600 if show_text else 0o666
            temporary.unlink(missing_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
                file.write(content)
    return paths


def _json(data: object) -> str:
    """Escaped to ASCII, so that no text in it moves a terminal's cursor or turns its direction."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, indent=1) + "\n"
