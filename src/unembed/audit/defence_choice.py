"""Which of the defences that were priced is worth its price."""

from collections.abc import Mapping, Sequence
from typing import Any

KEPT = 0.95  # of the neighbours that a search finds without a defence
NONE = "none"  # the name of the row without a defence; else the first


def choose(rows: Sequence[Mapping[str, Any]]) -> tuple[int | None, str]:
    """The row to recommend, None where none is worth it, and why in one sentence.

    It is the one that leaks least of those which keep 95 % of the neighbours and whose interval of the leak lies
    below the undefended one.
    """
    plain = next((number for number, row in enumerate(rows) if row["name"] == NONE), 0)
    least = _end(rows[plain]["leak"], "low")
    fit = [
        number
        for number, row in enumerate(rows)
        if number != plain and row["recall"]["value"] >= KEPT and _end(row["leak"], "high") < least
    ]
    if not fit:
        return None, (
            f"None of them lowers the leak surely and keeps {KEPT:.0%} of the neighbours: protect the vectors as the "
            "texts themselves."
        ).replace("%", " %")
    best = min(fit, key=lambda number: rows[number]["leak"]["value"])
    before, after = rows[plain]["leak"]["value"], rows[best]["leak"]["value"]
    return best, (
        f"The leak falls from {before:.2f} to {after:.2f} and {rows[best]['recall']['value']:.0%} of the neighbours "
        "stay. A defence lowers the leak; it does not make the vectors safe to publish."
    ).replace("%", " %")


def ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The row without a defence first, the others as they come."""
    return sorted(rows, key=lambda row: row["name"] != NONE)


def _end(rate: Mapping[str, Any], name: str) -> float:
    return float(rate.get(name, rate["value"]))
