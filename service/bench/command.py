"""`lpr bench`: what things cost here, each beside a baseline measured in the same run.

With `--json` exactly one object goes to standard output; everything else goes to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.bench.decode import CASES, decode
from service.bench.encode import encode
from service.bench.index import index
from service.bench.load import concurrency, load
from service.bench.match import match
from service.bench.patches import patches
from service.bench.recognize import recognize
from service.bench.report import Report
from service.bench.scale import SIZES, Kind, scale
from service.bench.stage import Stage
from service.client import ClientError
from service.errors import LPRError
from service.settings import Settings
from service.terminal import err, out, settings_with, stop

app = typer.Typer(
    no_args_is_help=True,
    help="Benches: what things cost on this machine, beside a baseline measured in the same run.",
)

BundleOption = Annotated[Path | None, typer.Option(help="Model bundle (LPR_BUNDLE).")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="What the bundle was exported from, for torch to run; without it, random weights of "
        "the bundle's recipe, which take as long."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Turns of each; medians are told.")]
ShopOption = Annotated[int, typer.Option(min=1, max=10_000, help="Pictures of the hot shop.")]
SecondsOption = Annotated[float, typer.Option(min=0.1, help="Of each level.")]


@app.command(name="match")
def match_command(
    candidates: Annotated[int, typer.Option(min=1, help="Matched with one clip.")] = 600,
    bundle: BundleOption = None,
    checkpoint: CheckpointOption = None,
    rounds: RoundsOption = 5,
    as_json: JsonOption = False,
) -> None:
    """A clip against many candidates; baseline: torch, pair by pair as the papers' code does it."""
    with _readable_errors(), _stage(bundle) as stage:
        _tell(match(stage, candidates, rounds, checkpoint, _note), as_json)


@app.command(name="encode")
def encode_command(
    bundle: BundleOption = None,
    checkpoint: CheckpointOption = None,
    rounds: RoundsOption = 10,
    as_json: JsonOption = False,
) -> None:
    """A clip's frames; baseline: the bare onnxruntime session. torch eager beside it."""
    with _readable_errors(), _stage(bundle) as stage:
        _tell(encode(stage, rounds, checkpoint, _note), as_json)


@app.command(name="patches")
def patches_command(
    kept: Annotated[
        str | None,
        typer.Option(
            help="Patches of each frame, with commas between.  "
            "[default: an eighth, a quarter, half]"
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Matched with the clip.")] = 600,
    bundle: BundleOption = None,
    rounds: RoundsOption = 10,
    as_json: JsonOption = False,
) -> None:
    """A clip without the patches that a detector leaves out; baseline: the same clip, whole frames.

    Detecting is told beside it, and whether it pays: `ratio_with_detecting`.
    """
    wanted = [] if kept is None else _numbers(kept, "--kept")
    with _readable_errors(), _stage(bundle) as stage:
        _tell(patches(stage, wanted, candidates, rounds), as_json)


@app.command(name="decode")
def decode_command(
    bundle: BundleOption = None,
    rounds: RoundsOption = 5,
    cases: Annotated[
        int, typer.Option(min=1, max=len(CASES), help="How many lengths and key frame distances.")
    ] = len(CASES),
    as_json: JsonOption = False,
) -> None:
    """A clip's frames out of its file; baseline: bare ffmpeg decoding the whole clip."""
    with _readable_errors():
        _tell(decode(_settings(bundle), rounds, CASES[:cases]), as_json)


@app.command(name="recognize")
def recognize_command(
    bundle: BundleOption = None,
    shop: ShopOption = 600,
    rounds: RoundsOption = 10,
    as_json: JsonOption = False,
) -> None:
    """POST /recognize of a 10 s 720p clip; baseline: bare decode and bare encoder session."""
    with _readable_errors(), _stage(bundle) as stage:
        _tell(recognize(stage, shop, rounds), as_json)


@app.command(name="index")
def index_command(
    bundle: BundleOption = None,
    pictures: Annotated[int, typer.Option(min=1, max=10_000, help="In each batch.")] = 256,
    rounds: RoundsOption = 3,
    as_json: JsonOption = False,
) -> None:
    """POST /gallery/batch until all is searchable; baseline: the bare encoder's best batches."""
    with _readable_errors(), _stage(bundle) as stage:
        _tell(index(stage, pictures, rounds), as_json)


@app.command(name="load")
def load_command(
    bundle: BundleOption = None,
    shop: ShopOption = 600,
    seconds: SecondsOption = 20.0,
    frames: Annotated[bool, typer.Option("--frames", help="Send pictures, not a video.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open loop, Poisson arrivals, at and below saturation; baseline: the bare encoder's clips/s.

    Latencies are told at 80 % of saturation: p50, p90, p95, p99, and errors by kind.
    """
    with _readable_errors(), _stage(bundle) as stage:
        _tell(load(stage, shop, seconds, as_frames=frames), as_json)


@app.command(name="concurrency")
def concurrency_command(
    bundle: BundleOption = None,
    shop: ShopOption = 600,
    clients: Annotated[str, typer.Option(help="Numbers, with commas between.")] = "1,2,4,8",
    seconds: SecondsOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Clips/s and latency by how many clients send clips at once; baseline: one alone."""
    with _readable_errors(), _stage(bundle) as stage:
        _tell(concurrency(stage, shop, _numbers(clients, "--clients"), seconds), as_json)


@app.command(name="scale")
def scale_command(  # noqa: PLR0917 - typer reads the options off the signature
    kind: Annotated[
        Kind,
        typer.Argument(
            help="`shop`: pictures of one shop; `gallery`: of all shops; `shops`: their number."
        ),
    ],
    bundle: BundleOption = None,
    sizes: Annotated[
        str | None, typer.Option(help="Numbers, with commas between.  [default: by kind]")
    ] = None,
    rounds: RoundsOption = 5,
    budget_s: Annotated[
        float,
        typer.Option("--budget", min=1, help="Seconds of filling, at most."),
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Search and matching as galleries grow; baseline: the smallest size."""
    wanted = SIZES[kind] if sizes is None else _numbers(sizes, "--sizes")
    with _readable_errors(), _stage(bundle) as stage:
        _tell(scale(stage, kind, wanted, rounds, budget_s), as_json)


def _tell(report: Report, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(), allow_nan=False))
    else:
        out.print(report.shown())


def _note(message: str) -> None:
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def _settings(bundle: Path | None) -> Settings:
    return settings_with(**({} if bundle is None else {"bundle": bundle}))


@contextmanager
def _stage(bundle: Path | None) -> Iterator[Stage]:
    settings = _settings(bundle)
    with err.status("Opening the bundle"):
        stage = Stage.open(settings)
    with err.status("Measuring"):
        yield stage


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except (LPRError, ClientError, OSError) as error:
        raise stop(str(error)) from error


def _numbers(text: str, option: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise stop(f"{option} takes numbers from 1 on with commas between, not {text!r}")
    return [int(word) for word in words]
