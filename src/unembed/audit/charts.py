"""Charts of a report as inline SVG: colours come from its style sheet, figures stand beside them as text.

Bars have coordinates in per cent and no view box, so that they stretch with the page while their lines stay thin.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from unembed.audit.findings import Rate

BAR, MIDDLE = 22, 11  # pixels
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 560, 320, 62, 52, 16  # of the plane, in its own units
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)  # between ticks
TICKS = 6  # at most
AROUND = 0.05  # of the data's extent, between them and the edges
LEAST = 0.02  # extent of an axis
NEAR = 5  # units within which points share a label
POINT = 5  # radius
DIGIT, COMMA, TALL = 9.0, 9.0, 15.0  # size of a label's characters, at the widest font of the style sheet
Box = tuple[float, float, float, float]  # middle, width and height
REACH = (8, 16, 26, 38, 52)  # from a point to its label


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
    low_x, high_x = _extent([one["recall"] for one in points])
    low_y, high_y = _extent([one["leak"] for one in points])

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - MARGIN) * (value - low_x) / (high_x - low_x), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - MARGIN) * (value - low_y) / (high_y - low_y), 1)

    parts = []
    for tick in _ticks(low_y, high_y):
        parts += [
            _line("grid", LEFT, y(tick), WIDTH - MARGIN, y(tick)),
            _text(LEFT - 6, y(tick) + 4, f"{tick:.2f}", "end"),
        ]
    for tick in _ticks(low_x, high_x):
        parts += [
            _line("grid", x(tick), MARGIN, x(tick), HEIGHT - BOTTOM),
            _text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:.2f}", "middle"),
        ]
    parts.append(_text((LEFT + WIDTH - MARGIN) / 2, HEIGHT - 8, "retrieval kept (recall) →", "middle"))
    parts.append(
        Markup('<text transform="translate(14 {y}) rotate(-90)" text-anchor="middle">leak →</text>').format(
            y=(HEIGHT - BOTTOM + MARGIN) / 2
        )
    )
    spots: dict[tuple[float, float], list[str]] = {}
    circles = []
    for number, one in enumerate(points, 1):
        leak, recall = one["leak"], one["recall"]
        at = x(float(recall["value"])), y(float(leak["value"]))
        parts.append(_line("whisker", at[0], y(_low(leak)), at[0], y(_high(leak))))
        parts.append(_line("whisker", x(_low(recall)), at[1], x(_high(recall)), at[1]))
        mark = "point chosen" if number - 1 == chosen else "point"
        circles.append(Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(mark, *at, POINT))
        close = next((spot for spot in spots if math.dist(spot, at) < NEAR), at)
        spots.setdefault(close, []).append(str(number))
    labels = _labels(spots)
    parts += [_line("lead", *at, *middle) for at, middle, _ in labels if math.dist(at, middle) > REACH[1] + TALL]
    parts += circles
    parts += [_text(middle[0], middle[1] + 4, said, "middle", "number") for _, middle, said in labels]
    label = f"Leakage of {len(points)} defences over the retrieval that they keep; figures in the table below"
    return Markup('<svg class="plane" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{inner}</svg>').format(
        w=WIDTH, h=HEIGHT, label=label, inner=Markup("").join(parts)
    )


def _labels(
    spots: Mapping[tuple[float, float], Sequence[str]],
) -> list[tuple[tuple[float, float], tuple[float, float], str]]:
    """Where the labels of points stand: spot, the label's middle, and text.

    Each takes the nearest place around its spot that no point and no label has; the one that least is in the way of,
    where all are taken.
    """
    taken = [(x, y, 2.0 * POINT, 2.0 * POINT) for x, y in spots]
    found = []
    for (x, y), numbers in spots.items():
        said = ", ".join(numbers)
        width = DIGIT * sum(map(len, numbers)) + COMMA * (len(numbers) - 1)
        boxes = [
            (x + across * (reach + width / 2), y + up * (reach + TALL / 2), width, TALL)
            for reach in REACH
            for across, up in ((0.8, -0.6), (-0.8, -0.6), (0.8, 0.6), (-0.8, 0.6), (0, -1), (0, 1), (1, 0), (-1, 0))
        ]
        inside = [one for one in boxes if _inside(one)]
        best = min(inside or boxes, key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(best)
        found.append(((x, y), (round(best[0], 1), round(best[1], 1)), said))
    return found


def _inside(box: Box) -> bool:
    x, y, width, height = box
    return (
        x - width / 2 >= LEFT and x + width / 2 <= WIDTH and y - height / 2 >= 0 and y + height / 2 <= HEIGHT - BOTTOM
    )


def _overlap(a: Box, b: Box) -> float:
    """Area that both cover."""
    sides = ((a[at + 2] + b[at + 2]) / 2 - abs(a[at] - b[at]) for at in (0, 1))
    return math.prod(max(0.0, one) for one in sides)


def _extent(rates: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """From somewhat below the lowest interval to somewhat above the highest."""
    low, high = min(map(_low, rates)), max(map(_high, rates))
    around = max(AROUND * (high - low), (LEAST - (high - low)) / 2)
    return low - around, high + around


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between these, evenly apart."""
    step = next((one for one in STEPS if (high - low) / one < TICKS), STEPS[-1])
    return [round(step * at, 4) for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


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
