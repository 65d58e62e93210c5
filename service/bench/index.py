"""`lpr bench index`: pictures into a gallery, against the bare encoder in its best batches."""

from __future__ import annotations

import itertools
from functools import partial

from service.bench import material
from service.bench.bare import BareSession, Pixels
from service.bench.report import Report
from service.bench.stage import Stage, fill, service
from service.bench.timing import take_turns, timed

_BATCHES = (1, 8, 16, 32)


def index(stage: Stage, pictures: int, rounds: int) -> Report:
    """`POST /gallery/batch` until all is durable and searchable; a shop of its own each round.

    Raises BenchError.
    """
    bare = BareSession(stage.bundle, "image_encoder", stage.model.providers)
    pixels = material.pixels(pictures, stage.model.manifest.dims.image_size)
    batch = _best_batch(bare, pixels)
    archive = material.archive(material.jpegs(), pictures)
    shops = (f"bench-{number}" for number in itertools.count())
    with service(stage.settings) as client:
        medians = take_turns(
            {
                "service": timed(lambda: fill(client, next(shops), archive)),
                "bare": timed(partial(_encode, bare, pixels, batch)),
            },
            rounds,
        )
    ours, limit = medians["service"] / pictures, medians["bare"] / pictures
    return Report(
        bench="index",
        what="a picture of POST /gallery/batch, until it is searchable",
        ms=ours,
        baseline=f"bare image encoder session, batches of {batch}",
        baseline_ms=limit,
        setting={**stage.setting, "pictures": pictures, "rounds": rounds},
        machine=stage.machine,
        figures={"pictures_per_s": 1e3 / ours, "baseline_pictures_per_s": 1e3 / limit},
    )


def _best_batch(bare: BareSession, pixels: Pixels) -> int:
    """Of the sizes that there are pictures for, the one that takes least a picture."""
    sizes = [size for size in _BATCHES if size <= len(pixels)] or [len(pixels)]
    taken = {
        size: take_turns({"": timed(partial(bare.run, pixels[:size]))}, 2)[""] / size
        for size in sizes
    }
    return min(taken, key=taken.__getitem__)


def _encode(bare: BareSession, pixels: Pixels, batch: int) -> None:
    for start in range(0, len(pixels), batch):
        bare.run(pixels[start : start + batch])
