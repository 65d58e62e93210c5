"""The panels of a run in one picture, so that people see what they will get."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 4


@dataclass(frozen=True)
class Drawn:
    """A panel's series, each a legend's pattern and what Prometheus answered."""

    board: str
    title: str
    kind: str
    unit: str
    series: list[tuple[str, dict[str, Any]]]


def draw(panels: list[Drawn], path: Path) -> None:
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(20, 2.6 * rows), layout="constrained")
    for place, panel in enumerate(panels, start=1):
        axis = figure.add_subplot(rows, COLUMNS, place)
        (_buckets if panel.kind == "heatmap" else _lines)(axis, panel)
        axis.set_title(f"{panel.board.removeprefix('LPR: ')} · {panel.title}", fontsize=9)
        axis.set_ylabel(panel.unit, fontsize=7)
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=70)


def _lines(axis: Axes, panel: Drawn) -> None:
    start = min(one["values"][0][0] for _, one in panel.series)
    for legend, one in panel.series:
        times = [when - start for when, _ in one["values"]]
        label = re.sub(r"{{(\w+)}}", lambda m, one=one: one["metric"].get(m[1], ""), legend)
        axis.plot(times, [float(value) for _, value in one["values"]], label=label or None)
    axis.set_ylim(bottom=0)
    if any(legend for legend, _ in panel.series):
        axis.legend(fontsize=6, loc="upper left")


def _buckets(axis: Axes, panel: Drawn) -> None:
    """How many fell into each bucket, over time: Prometheus counts them cumulatively."""
    series = sorted((one for _, one in panel.series), key=lambda one: float(one["metric"]["le"]))
    shortest = min(len(one["values"]) for one in series)
    counts = np.array([[float(v) for _, v in one["values"][-shortest:]] for one in series])
    axis.imshow(np.diff(counts, axis=0, prepend=0), origin="lower", aspect="auto", cmap="Blues")
    edges = [one["metric"]["le"] for one in series]
    axis.set_yticks(range(0, len(edges), 4), edges[::4])
