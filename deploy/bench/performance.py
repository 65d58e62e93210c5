"""Writes docs/PERFORMANCE.md and its plots from a run of every bench: `make bench`.

    python deploy/bench/performance.py docs [--quick] [--data FOLDER] [--export FLAGS] [--only A,B]

Makes a ViT-B/32 with random weights (`lpr-train init`, `lpr-train export`), so nothing is
downloaded; runs the benches one after the other, each as the command that the page shows; keeps
what each said as JSON in the work folder. A bench that fails is told as failed, and the rest goes
on; `--only` does some of them again and takes the rest from there. Knows the benches by their
commands and their JSON alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

JSON = dict[str, Any]
Results = Mapping[str, JSON]
"""What each bench said, by its name here; `{"failed": why}` where it said nothing."""

RECIPE = "rice_vitb32_lpr4m"
STEP_S = 600.0
_TOLD = 300  # characters of what a bench that failed said last
FOLDER = Path(sys.executable).parent
LEFT_OUT = {"--bundle", "--checkpoint", "--weights"}  # of the commands shown, said once above them


@dataclass(frozen=True)
class Floor:
    """A promise, and how it is read off what the benches said."""

    promise: str
    bench: str
    measured: Callable[[JSON], float | None]
    holds: Callable[[float], bool]
    shown: str = "{:,.2f}"


def _ratio(report: JSON) -> float | None:
    ratio: float | None = report["ratio"]
    return ratio


def _share_of_encoding(report: JSON) -> float:
    return float(report["figures"]["share_of_encoding"])


def _growth(report: JSON) -> float:
    """The largest size, hot, as many times the smallest."""
    hot = [point["hot"] for point in report["figures"]["points"]]
    return float(hot[-1] / hot[0])


FLOORS = (
    Floor(
        "matching 600 candidates: >= 160 times as fast as pair by pair",
        "match-600",
        _ratio,
        lambda x: x >= 160,
    ),
    Floor(
        "matching 600 candidates: <= 12 % of encoding the clip",
        "match-600",
        _share_of_encoding,
        lambda x: x <= 0.12,
        "{:.1%}",
    ),
    Floor(
        "matching 100 candidates: >= 88 times as fast as pair by pair",
        "match-100",
        _ratio,
        lambda x: x >= 88,
    ),
    Floor(
        "matching 10,000 candidates: <= 1.8 times encoding the clip",
        "match-10000",
        _share_of_encoding,
        lambda x: x <= 1.8,
    ),
    Floor(
        "`POST /recognize`, 10 s of 720p, hot shop of 600: <= 1.25 times bare decode and encoder",
        "recognize",
        lambda report: report["figures"]["times_the_baseline"],
        lambda x: x <= 1.25,
    ),
    Floor(
        "throughput at saturation: >= 90 % of the bare encoder's (clips sent as video)",
        "load",
        _ratio,
        lambda x: x >= 0.9,
        "{:.0%}",
    ),
    Floor(
        "the same, clips sent as frames",
        "load-frames",
        _ratio,
        lambda x: x >= 0.9,
        "{:.0%}",
    ),
    Floor(
        "at 80 % of saturation: p99 <= 3 times p50",
        "load",
        lambda report: report["figures"]["p99_over_p50"],
        lambda x: x <= 3,
    ),
    Floor(
        "no request lost",
        "load",
        lambda report: report["figures"]["lost"],
        lambda x: x == 0,
        "{:.0f}",
    ),
    Floor(
        "indexing, durable and searchable: >= 90 % of the bare image encoder's batches",
        "index",
        _ratio,
        lambda x: x >= 0.9,
        "{:.0%}",
    ),
    Floor(
        "against the do-it-yourself service: >= 3 times the clips/s",
        "diy",
        lambda report: report["clips_per_s"]["ours"] / report["clips_per_s"]["diy"],
        lambda x: x >= 3,
    ),
    Floor(
        "against the do-it-yourself service: more accurate (difference of R@1, in points)",
        "diy",
        lambda report: 100 * (report["accuracy"]["ours"]["r1"] - report["accuracy"]["diy"]["r1"]),
        lambda x: x > 0,
        "{:+.1f}",
    ),
    Floor(
        "cost does not grow with the gallery (a hot shop of 600, largest over smallest)",
        "scale-gallery",
        _growth,
        lambda x: x <= 1.5,
    ),
    Floor(
        "cost does not grow with the number of shops (a hot shop, largest over smallest)",
        "scale-shops",
        _growth,
        lambda x: x <= 1.5,
    ),
)


def commands(work: Path, data: Path | None, *, quick: bool) -> dict[str, list[str]]:
    """The benches in the order they are run, by name."""
    bundle = ["--bundle", str(work / "vitb32")]
    model = [*bundle, "--checkpoint", str(work / "vitb32.safetensors")]
    rounds, many = ("1", "1") if quick else ("3", "11")

    def bench(*words: str) -> list[str]:
        return ["lpr", "bench", *words, *bundle, "--json"]

    def match(candidates: int) -> list[str]:
        most = min(candidates, 20) if quick else candidates
        words = ["--candidates", str(most), "--rounds", rounds]
        return ["lpr", "bench", "match", *words, *model, "--json"]

    few = ("--shop", "16") if quick else ()
    diy = ["python", "deploy/bench/against_diy.py", "--weights", str(work / "vitb32.safetensors")]
    diy += [*bundle, "--clips", "4" if quick else "120", "--seconds", "1" if quick else "8"]
    diy += ["--data", str(data)] if data else []
    return {
        "match-100": match(100),
        "match-600": match(600),
        "match-10000": match(10_000),
        "encode": bench("encode", "--rounds", "1" if quick else "8"),
        "decode": bench("decode", "--rounds", "1" if quick else "2", *(["--cases", "1"] * quick)),
        "recognize": bench("recognize", *few, "--rounds", "1" if quick else "8"),
        "index": bench(
            "index", "--pictures", "16" if quick else "256", "--rounds", "1" if quick else "2"
        ),
        "load": bench("load", *few, "--seconds", "1" if quick else "12"),
        "load-frames": bench("load", *few, "--frames", "--seconds", "1" if quick else "8"),
        "concurrency": bench("concurrency", *few, "--seconds", "1" if quick else "6"),
        "scale-shop": bench("scale", "shop", "--rounds", many, "--budget", _budget(60, quick)),
        "scale-gallery": bench(
            "scale", "gallery", "--rounds", many, "--budget", _budget(90, quick)
        ),
        "scale-shops": bench("scale", "shops", "--rounds", many, "--budget", _budget(60, quick)),
        "diy": diy,
    }


def _budget(seconds: int, quick: bool) -> str:
    return "1" if quick else str(seconds)


def make_model(work: Path, flags: str) -> None:
    """ViT-B/32 with random weights, as a checkpoint and as a bundle. Raises CalledProcessError."""
    checkpoint, bundle = work / "vitb32.safetensors", work / "vitb32"
    name = ["--name", "rice-vitb32-random"]
    for command in (
        ["lpr-train", "init", RECIPE, "--out", str(checkpoint)],
        ["lpr-train", "export", str(checkpoint), "--out", str(bundle), *name, *shlex.split(flags)],
    ):
        _say(shlex.join(command))
        subprocess.run(_here(command), check=True, timeout=STEP_S)  # noqa: S603 - our own


def measure(benches: Mapping[str, list[str]], work: Path) -> None:
    """Runs them one after the other; what each said is kept in `work`."""
    for name, command in benches.items():
        _say(shlex.join(command))
        begun = time.perf_counter()
        said = _said(command)
        _say(f"  {time.perf_counter() - begun:.0f} s {said.get('failed', '')}")
        (work / f"{name}.json").write_text(json.dumps(said, indent=2) + "\n")


def kept(work: Path, names: Sequence[str]) -> dict[str, JSON]:
    """What an earlier run's benches said."""
    files = {name: work / f"{name}.json" for name in names}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def _said(command: Sequence[str]) -> JSON:
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            _here(command), capture_output=True, text=True, timeout=STEP_S, check=False
        )
        answer: JSON = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {STEP_S:.0f} s"}
    except ValueError:
        said = " ".join(done.stderr.split())[-_TOLD:]
        return {"failed": said or f"status {done.returncode}"}
    return answer


def _here(command: Sequence[str]) -> list[str]:
    """The same program of this environment."""
    return [str(FOLDER / command[0]), *command[1:]]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


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
        measured = _measured(floor, results)
        figure = "not measured" if measured is None else floor.shown.format(measured)
        kept = "" if measured is None else "yes" if floor.holds(measured) else "**no**"
        rows.append(f"| {floor.promise} | {figure} | {kept} | `{floor.bench}` |")
    failed = [f"`{name}`: {r['failed']}" for name, r in results.items() if "failed" in r]
    return [*rows, *(["", "Failed: " + "; ".join(failed)] if failed else [])]


def _measured(floor: Floor, results: Results) -> float | None:
    report = results.get(floor.bench, {"failed": ""})
    return None if "failed" in report else floor.measured(report)


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
    titles = {
        "decode": ("Decoding", "cases"),
        "load": ("Below and at saturation, clips as video", "levels"),
        "load-frames": ("Below and at saturation, clips as frames", "levels"),
        "concurrency": ("Clients at once", "points"),
        "scale-shop": ("Pictures of one shop", "points"),
        "scale-gallery": ("Pictures of all shops, 600 each", "points"),
        "scale-shops": ("Number of shops, 6 pictures each", "points"),
    }
    lines = []
    for name, (title, key) in titles.items():
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
        "| | clips/s | R@1 | R@5 |",
        "|---|---|---|---|",
        *(
            f"| {name} | {rates[key]:.2f} | {found[key]['r1']:.1%} | {found[key]['r5']:.1%} |"
            for key, name in (("ours", "this service"), ("diy", "do it yourself"))
        ),
        "",
        f"{found['clips']} clips of {found['products']} products ({found['data']}); only this "
        f"service right: {found['only_ours_right']}, only the other: {found['only_diy_right']}.",
    ]


def shown(command: Sequence[str]) -> str:
    """Without the paths that all commands have in common."""
    words: list[str] = []
    for word in command:
        if words and words[-1] in LEFT_OUT:
            words.pop()
        elif words and words[-1] == "--data":
            words.append("FOLDER")
        else:
            words.append(word)
    return shlex.join(words)


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


def draw(results: Results, out: Path) -> None:
    """Cost against the sizes of shops and galleries, and against clients."""
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    for axis, (name, key, label) in zip(
        axes,
        (
            ("scale-shop", "shop", "pictures of the shop"),
            ("scale-gallery", "gallery", "pictures of all shops"),
            ("scale-shops", "shops", "shops"),
        ),
        strict=False,
    ):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of PERFORMANCE.md and performance.png")
    parser.add_argument("--quick", action="store_true", help="one short round: does it all run?")
    parser.add_argument(
        "--data", type=Path, help="photographs for the accuracy; else made products"
    )
    parser.add_argument("--export", default="", help="further flags of `lpr-train export`")
    parser.add_argument("--only", default="", help="benches to do again, with commas between")
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    benches = commands(given.work, given.data, quick=given.quick)
    only = [name for name in given.only.split(",") if name]
    if unknown := set(only) - benches.keys():
        parser.error(f"--only knows {', '.join(benches)}, not {', '.join(sorted(unknown))}")
    if not only:
        make_model(given.work, given.export)
    measure({name: benches[name] for name in only or benches}, given.work)
    results = kept(given.work, list(benches))
    (given.out / "PERFORMANCE.md").write_text(page(results, benches, quick=given.quick))
    draw(results, given.out / "performance.png")


if __name__ == "__main__":
    main()
