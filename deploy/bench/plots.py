"""docs/performance.png: cost against the sizes of shops and galleries, and against clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from promises import JSON, Results

mpl.use("Agg")
from matplotlib import pyplot as plt

_SCALES = (
    ("scale-shop", "shop", "pictures of the shop"),
    ("scale-gallery", "gallery", "pictures of all shops"),
    ("scale-shops", "shops", "shops"),
)


def draw(results: Results, out: Path) -> None:
    """What did not run is an empty plot."""
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    for axis, (name, key, label) in zip(axes[:-1], _SCALES, strict=True):
        _draw_scale(axis, results.get(name, {}), key, label)
    _draw_clients(axes[-1], results.get("concurrency", {}))
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _draw_scale(axis: Any, report: JSON, key: str, label: str) -> None:
    axis.set(xlabel=label, ylabel="ms a clip", xscale="log", yscale="log")
    if "figures" not in report:
        return
    points = report["figures"]["points"]
    for way in ("hot", "cold", "index"):
        told = [(point[key], point[way]) for point in points if way in point]
        axis.plot(*zip(*told, strict=True), marker="o", label=way)
    axis.axhline(report["others_ms"]["encoding a clip"], color="grey", ls="--", label="encoding")
    axis.legend()


def _draw_clients(axis: Any, report: JSON) -> None:
    axis.set(xlabel="clients at once", ylabel="clips/s")
    if "figures" not in report:
        return
    points = report["figures"]["points"]
    clients = [point["clients"] for point in points]
    axis.plot(clients, [point["clips_per_s"] for point in points], marker="o", color="C0")
    axis.set_ylim(bottom=0)
    latency = axis.twinx()
    latency.set_ylabel("p50 and p99, ms")
    for quantile, style in (("p50_ms", "-"), ("p99_ms", ":")):
        latency.plot(clients, [point[quantile] for point in points], style, color="C1")
    latency.set_ylim(bottom=0)
