"""docs/PERFORMANCE.md, from what the benches said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benches import RECIPE, shown
from promises import FLOORS, JSON, Results

# Benches that tell more than one point: the heading of their table, and where the points are.
_TABLES = {
    "decode": ("Decoding", "cases"),
    "load": ("Below and at saturation, clips as video", "levels"),
    "load-frames": ("Below and at saturation, clips as frames", "levels"),
    "concurrency": ("Clients at once", "points"),
    "scale-shop": ("Pictures of one shop", "points"),
    "scale-gallery": ("Pictures of all shops, 600 each", "points"),
    "scale-shops": ("Number of shops, 6 pictures each", "points"),
}


_SERVICES = {
    "ours": "this service",
    "int8": "this service, in int8 (what it costs: docs/LOG.md)",
    "diy": "do it yourself",
}


def page(results: Results, benches: Mapping[str, list[str]], *, quick: bool) -> str:
    """The whole of docs/PERFORMANCE.md."""
    machine = next((r["machine"] for r in results.values() if "machine" in r), {})
    lines = [
        "# Performance",
        "",
        "Written by `make bench`. Every figure is a ratio, or stands beside its baseline from the "
        "same run; times are medians of turns.",
        *(
            ["", "**A quick run (`QUICK=1`): it shows that all benches run, no figure counts.**"]
            * quick
        ),
        "",
        f"Machine: {_told(machine)}.",
        "",
        _model(results),
        "",
        *_floors(results),
        "",
        *_times(results),
        "",
        *_lists(results),
        "",
        "![cost against size, and clients](performance.png)",
        "",
        *_diy(results),
        "",
        "## Commands",
        "",
        "The model first: `lpr-train init " + RECIPE + " --out CKPT`, `lpr-train export CKPT --out "
        "BUNDLE --name rice-vitb32-random`. All with `--bundle BUNDLE`, `match` with "
        "`--checkpoint CKPT` too, which compares the logits of both decoders.",
        "",
        *(f"- `{name}`: `{shown(command)}`" for name, command in benches.items()),
        "",
        "A GPU: the same commands with `LPR_INFERENCE__PROVIDER=cuda`; this page has none.",
        "",
    ]
    return "\n".join(lines)


def _model(results: Results) -> str:
    setting = results.get("encode", {}).get("setting", {})
    return (
        f"Model: ViT-B/32 with random weights (`{setting.get('bundle', '?')}`, precision "
        f"{setting.get('precision', '?')}, {setting.get('threads', '?')} threads); its times are "
        "those of a trained one."
    )


def _floors(results: Results) -> list[str]:
    rows = [
        "## What is promised",
        "",
        "| promise | measured | kept | command |",
        "|---|---|---|---|",
    ]
    for floor in FLOORS:
        measured = floor.measured(results)
        figure = "not measured" if measured is None else floor.shown.format(measured)
        kept = "" if measured is None else "yes" if floor.holds(measured) else "**no**"
        rows.append(f"| {floor.promise} | {figure} | {kept} | `{floor.bench}` |")
    failed = [f"`{name}`: {r['failed']}" for name, r in results.items() if "failed" in r]
    return [*rows, *(["", "Failed: " + "; ".join(failed)] if failed else [])]


def _times(results: Results) -> list[str]:
    rows = ["## Times", "", "| bench | ms | baseline | ms | ratio |", "|---|---|---|---|---|"]
    for name, report in results.items():
        if "ms" not in report:
            continue
        baseline = report["baseline"] or "none here"
        rows.append(
            f"| `{name}`: {report['what']} | {_figure(report['ms'])} | {baseline} | "
            f"{_figure(report['baseline_ms'])} | {_figure(report['ratio'])} |"
        )
        rows += [f"| | | {other} | {_figure(ms)} | |" for other, ms in report["others_ms"].items()]
    return [*rows, "", "`ratio`: how many times as fast as the baseline."]


def _lists(results: Results) -> list[str]:
    """The tables of those benches that tell more than one point."""
    lines = []
    for name, (title, key) in _TABLES.items():
        figures = results.get(name, {}).get("figures")
        if figures is None:
            continue
        points = [
            *([figures["at_80_percent"]] if "at_80_percent" in figures else []),
            *figures[key],
        ]
        lines += [f"### {title}", "", *_table(points), *_reach(results[name]), ""]
    return lines


def _table(points: Sequence[JSON]) -> list[str]:
    columns = list(points[0])
    rows = [f"| {' | '.join(_figure(point.get(c)) for c in columns)} |" for point in points]
    head = f"| {' | '.join(column.replace('_', ' ') for column in columns)} |"
    return [head, "|" + "---|" * len(columns), *rows]


def _reach(report: JSON) -> list[str]:
    """What the columns of a scale are, and how far it went."""
    setting = report["setting"]
    if "milvus" not in setting:
        return []
    return [
        "",
        f"Milliseconds of search and matching; Milvus: {setting['milvus']}. `hot`: as served from "
        "memory where the shop fits there; `cold`: the first clip of a shop; `index`: by Milvus "
        f"alone. Filled for at most {setting['budget_s']:g} s, so up to the last row; sizes asked "
        f"for: {', '.join(f'{size:,}' for size in setting['sizes_asked_for'])}.",
    ]


def _diy(results: Results) -> list[str]:
    report = results.get("diy", {})
    if "accuracy" not in report:
        return []
    found, rates = report["accuracy"], report["clips_per_s"]
    return [
        "## Against a do-it-yourself service",
        "",
        "`deploy/bench/diy.py`: the encoder in torch, frames pooled by their mean, Milvus, FastAPI "
        "and OpenCV. Clips/s with the same ViT-B/32; accuracy with the default bundle's encoder in "
        "both, as no CLIP weights are downloaded here.",
        "",
        f"| | {' | '.join(f'clips/s, of {clip_s} s' for clip_s in rates)} | R@1 | R@5 |",
        f"|---|{'---|' * len(rates)}---|---|",
        *(
            f"| {name} | {' | '.join(f'{rate[key]:.2f}' for rate in rates.values())} | "
            + (f"{found[key]['r1']:.1%} | {found[key]['r5']:.1%} |" if key in found else "| |")
            for key, name in _SERVICES.items()
        ),
        "",
        f"{found['clips']} clips of {found['products']} products ({found['data']}); only this "
        f"service right: {found['only_ours_right']}, only the other: {found['only_diy_right']}.",
    ]


def _told(values: JSON) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())


def _figure(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
