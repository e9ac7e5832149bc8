"""Charts of a report as inline SVG: colours come from its style sheet, figures stand beside them as text.

Bars have coordinates in per cent and no view box, so that they stretch with the page while their lines stay thin.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from unembed.audit.findings import Rate

BAR, MIDDLE = 22, 11  # pixels
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 360, 250, 52, 40, 12  # of the plane, in its own units
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)  # between ticks
TICKS = 5  # at most between the first and the last
NEAR = 14  # units within which points share a label


def bar(rate: Rate, label: str, baselines: Mapping[str, float] | None = None, kind: str = "") -> Markup:
    """A share from 0 to 1 with its interval, and thin lines at the baselines.

    Args:
        label: what a screen reader says.
        kind: a class of the style sheet that gives the bar its colour.
    """
    parts = [
        Markup('<rect class="track" width="100%" height="{h}" rx="2"/>').format(h=BAR),
        Markup('<rect class="fill" width="{w}" height="{h}" rx="2"/>').format(w=_per_cent(rate.value), h=BAR),
    ]
    for name, value in (baselines or {}).items():
        parts.append(
            Markup('<line class="{name}" x1="{x}" x2="{x}" y1="-3" y2="{h}"/>').format(
                name=name, x=_per_cent(value), h=BAR + 3
            )
        )
    low, high = _per_cent(rate.low), _per_cent(rate.high)
    parts.append(Markup('<line class="whisker" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>').format(a=low, b=high, y=MIDDLE))
    for end in (low, high):
        parts.append(
            Markup('<line class="whisker" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>').format(
                x=end, a=MIDDLE - 4, b=MIDDLE + 4
            )
        )
    return Markup('<svg class="bar {kind}" height="{h}" role="img" aria-label="{label}">{inner}</svg>').format(
        kind=kind, h=BAR, label=label, inner=Markup("").join(parts)
    )


def plane(points: Sequence[Mapping[str, Any]], chosen: int | None) -> Markup:
    """Leakage over retrieval, a numbered point each with its intervals.

    Args:
        points: each with `leak` and `recall`, which have `value` and maybe `low` and `high`.
        chosen: which of them is marked.
    """
    across = _ticks(min(_low(one["recall"]) for one in points), max(_high(one["recall"]) for one in points))
    up = _ticks(0.0, max(_high(one["leak"]) for one in points))

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - MARGIN) * (value - across[0]) / (across[-1] - across[0]), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - MARGIN) * value / up[-1], 1)

    parts = []
    for tick in up:
        parts += [
            _line("grid", LEFT, y(tick), WIDTH - MARGIN, y(tick)),
            _text(LEFT - 6, y(tick) + 4, f"{tick:.2f}", "end"),
        ]
    parts += [_text(x(tick), HEIGHT - BOTTOM + 16, f"{tick:.2f}", "middle") for tick in across]
    parts.append(_text((LEFT + WIDTH - MARGIN) / 2, HEIGHT - 6, "retrieval kept (recall) →", "middle"))
    parts.append(
        Markup('<text transform="translate(11 {y}) rotate(-90)" text-anchor="middle">leak →</text>').format(
            y=(HEIGHT - BOTTOM + MARGIN) / 2
        )
    )
    labels: dict[tuple[float, float], list[str]] = {}
    for number, one in enumerate(points, 1):
        leak, recall = one["leak"], one["recall"]
        at = x(float(recall["value"])), y(float(leak["value"]))
        parts.append(_line("whisker", at[0], y(_low(leak)), at[0], y(_high(leak))))
        parts.append(_line("whisker", x(_low(recall)), at[1], x(_high(recall)), at[1]))
        mark = "point chosen" if number - 1 == chosen else "point"
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="4.5"/>').format(mark, *at))
        close = next((spot for spot in labels if math.dist(spot, at) < NEAR), at)
        labels.setdefault(close, []).append(str(number))
    for at, numbers in labels.items():
        side = (9, "start") if at[0] < WIDTH / 2 else (-9, "end")
        parts.append(_text(at[0] + side[0], at[1] - 6, ", ".join(numbers), side[1], "number"))
    label = f"Leakage of {len(points)} defences over the retrieval that they keep; figures in the table below"
    return Markup('<svg class="plane" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{inner}</svg>').format(
        w=WIDTH, h=HEIGHT, label=label, inner=Markup("").join(parts)
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, evenly apart."""
    step = next((one for one in STEPS if (high - low) / one <= TICKS - 1), STEPS[-1])
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * at, 4) for at in range(first, max(last, first + 1) + 1)]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _per_cent(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.2f}%"


def _low(rate: Mapping[str, Any]) -> float:
    return float(rate.get("low", rate["value"]))


def _high(rate: Mapping[str, Any]) -> float:
    return float(rate.get("high", rate["value"]))
