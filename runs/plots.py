"""Curves with their intervals as SVG, the same file for the same figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unembed.files.atomic import atomic_file

Point = tuple[float, float, float, float]  # x, value, and its interval's ends


def draw_curves(
    path: Path, title: str, across: str, panels: Mapping[str, Mapping[str, Sequence[Point]]], base: int = 10
) -> None:
    """A panel for each figure, a line for each series; the axis `across`, which all share, is logarithmic.

    Raises:
        OutputError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "unembed"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(3 * len(panels), 2.9), layout="constrained", squeeze=False)
    for panel, (name, series) in zip(axes[0], panels.items(), strict=True):
        for label, points in series.items():
            x, values, low, high = zip(*points, strict=True)
            (line,) = panel.plot(x, values, marker="o", markersize=3, label=label)
            panel.fill_between(x, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
        panel.set_xscale("log", base=base)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(xlabel=across, title=name)
        panel.grid(alpha=0.3)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)
