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
from pathlib import Path

from benches import commands, kept, make_model, measure
from page import page
from plots import draw


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
