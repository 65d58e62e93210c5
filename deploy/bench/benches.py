"""Every bench as the command that is run, and what each said as JSON, kept in a folder."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from promises import JSON

RECIPE = "rice_vitb32_lpr4m"
_STEP_S = 600.0
_TOLD = 300  # characters of what a bench that failed said last
_PROGRAMS = Path(sys.executable).parent
_LEFT_OUT = {"--bundle", "--checkpoint", "--int8", "--weights"}  # of the commands shown

# By name, in the order they are run: `lpr bench ...`, and what a quick run does instead.
# fmt: off
_BENCHES = {
    "match-100": ("match --candidates 100 --rounds 3",
                  "match --candidates 20 --rounds 1"),
    "match-600": ("match --candidates 600 --rounds 3",
                  "match --candidates 20 --rounds 1"),
    "match-10000": ("match --candidates 10000 --rounds 3",
                    "match --candidates 20 --rounds 1"),
    "encode": ("encode --rounds 8",
               "encode --rounds 1"),
    "decode": ("decode --rounds 2",
               "decode --rounds 1 --cases 1"),
    "recognize": ("recognize --rounds 8",
                  "recognize --shop 16 --rounds 1"),
    "index": ("index --pictures 256 --rounds 2",
              "index --pictures 16 --rounds 1"),
    "load": ("load --seconds 12",
             "load --shop 16 --seconds 1"),
    "load-frames": ("load --frames --seconds 8",
                    "load --shop 16 --frames --seconds 1"),
    "concurrency": ("concurrency --seconds 6",
                    "concurrency --shop 16 --seconds 1"),
    "scale-shop": ("scale shop --rounds 11 --budget 60",
                   "scale shop --rounds 1 --budget 1"),
    "scale-gallery": ("scale gallery --rounds 11 --budget 90",
                      "scale gallery --rounds 1 --budget 1"),
    "scale-shops": ("scale shops --rounds 11 --budget 60",
                    "scale shops --rounds 1 --budget 1"),
}
# fmt: on


def commands(work: Path, data: Path | None, *, quick: bool) -> dict[str, list[str]]:
    """The benches of the model in `work`, by name; `data`: photographs for the accuracy."""
    bundle = ["--bundle", str(_bundle(work))]
    found = {}
    for name, (whole, short) in _BENCHES.items():
        bench, *options = (short if quick else whole).split()
        model = ["--checkpoint", str(_checkpoint(work))] if bench == "match" else []
        found[name] = ["lpr", "bench", bench, *options, *bundle, *model, "--json"]
    diy = ["python", "deploy/bench/against_diy.py", "--weights", str(_checkpoint(work)), *bundle]
    diy += ["--int8", str(_int8(work))]
    diy += ["--clips", "4" if quick else "120", "--seconds", "1" if quick else "8"]
    return {**found, "diy": [*diy, *(["--data", str(data)] if data else [])]}


def shown(command: Sequence[str]) -> str:
    """Without the paths that all commands have in common."""
    words: list[str] = []
    for word in command:
        if words and words[-1] in _LEFT_OUT:
            words.pop()
        elif words and words[-1] == "--data":
            words.append("FOLDER")
        else:
            words.append(word)
    return shlex.join(words)


def make_model(work: Path, flags: str) -> None:
    """ViT-B/32 with random weights, as a checkpoint and as a bundle, in int8 too. Raises
    CalledProcessError."""
    checkpoint = str(_checkpoint(work))
    export = ["lpr-train", "export", checkpoint, "--name", "rice-vitb32-random", "--out"]
    for command in (
        ["lpr-train", "init", RECIPE, "--out", checkpoint],
        [*export, str(_bundle(work)), *shlex.split(flags)],
        [*export, str(_int8(work)), "--precision", "int8"],
    ):
        _say(shlex.join(command))
        subprocess.run(_here(command), check=True, timeout=_STEP_S)  # noqa: S603 - our own


def measure(benches: Mapping[str, list[str]], work: Path) -> None:
    """Runs them one after the other; what each said is kept in `work`."""
    for name, command in benches.items():
        _say(shlex.join(command))
        begun = time.perf_counter()
        said = _said(command)
        _say(f"  {time.perf_counter() - begun:.0f} s {said.get('failed', '')}")
        (work / f"{name}.json").write_text(json.dumps(said, indent=2) + "\n")


def kept(work: Path, names: Iterable[str]) -> dict[str, JSON]:
    """What the benches said, in this run or an earlier one."""
    files = {name: work / f"{name}.json" for name in names}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def _checkpoint(work: Path) -> Path:
    return work / "vitb32.safetensors"


def _bundle(work: Path) -> Path:
    return work / "vitb32"


def _int8(work: Path) -> Path:
    return work / "vitb32-int8"


def _said(command: Sequence[str]) -> JSON:
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            _here(command), capture_output=True, text=True, timeout=_STEP_S, check=False
        )
        answer: JSON = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {_STEP_S:.0f} s"}
    except ValueError:
        said = " ".join(done.stderr.split())[-_TOLD:]
        return {"failed": said or f"status {done.returncode}"}
    return answer


def _here(command: Sequence[str]) -> list[str]:
    """The same program of this environment."""
    return [str(_PROGRAMS / command[0]), *command[1:]]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
