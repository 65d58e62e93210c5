"""`lpr-train export`: a checkpoint becomes a bundle, fused, calibrated and measured on its data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from training import checkpoint
from training.configs import Recipe, judged_layout
from training.data.given import DataOption, given_folders
from training.evaluation import filming, fusion_search, protocol
from training.evaluation.calibration import UNFITTED, confidence_shares, fit_calibration
from training.evaluation.fusion import Fusion
from training.evaluation.hearings import HEARINGS, Hearing
from training.evaluation.judging import Judge, judges_on, scorer_of
from training.evaluation.scorers import BundleScorer, Scorer
from training.evaluation.scores import Scores, joined, summary
from training.export.bundle import (
    check_name,
    check_replaceable,
    export_bundle,
    recalibrate_bundle,
)
from training.export.precision import Precision
from training.export.wrappers import Detector
from training.models.matching_decoder import LOGIT_SCALE
from training.models.rice import Rice
from training.models.sgmn.model import Sgmn
from training.recipes import recipe_named
from training.terminal import (
    CommandError,
    DeviceOption,
    UnseenOption,
    UnseenTestOption,
    console,
    progress_bars,
)

TEXT_UNMEASURED = 0.05  # of text's evidence, where no data tells what it is worth
RANGED_PICTURES = 64  # of val, which show int8 its ranges
RANGED_CLIPS = 32  # of each val, which show them to the detector

app = typer.Typer()


@app.command()
def export(  # noqa: PLR0917 - typer reads the options off the signature
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Option(help="The bundle's folder; replaced when it is there.")],
    name: Annotated[str, typer.Option(help="The bundle's name, before its hash.")],
    data: DataOption = [],  # noqa: B006  typer copies it
    precision: Annotated[
        Precision,
        typer.Option(help="fp16-weights is for small files, int8 for CPUs, fp16 for GPUs."),
    ] = "fp32",
    detector: Annotated[
        Path | None, typer.Option(help="Checkpoint of a detector that goes with the bundle.")
    ] = None,
    sure: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Score from which on its boxes count, instead of the best on its own val.",
        ),
    ] = None,
    int8_detector: Annotated[
        bool, typer.Option(help="The detector in int8: two thirds of its time on a CPU.")
    ] = False,
    unseen: UnseenOption = [],  # noqa: B006
    unseen_test: UnseenTestOption = [],  # noqa: B006
    device: DeviceOption = "cpu",
) -> None:
    """Export a checkpoint to a model bundle: fused and calibrated on val, measured on test.

    Val may show products that training knows. `--unseen` tells what match and text are worth
    elsewhere, each as much as val.

    Without data nothing is measured, and the bundle's service ranks products but never decides.
    A lower precision is measured as it is served, on the CPU.
    """
    check_name(name)
    check_replaceable(out)
    if (unseen or unseen_test) and not data:
        raise CommandError("--unseen has its say beside val's: it goes with --data")
    if detector is None and (sure is not None or int8_detector):
        raise CommandError("--sure and --int8-detector are about a detector: give --detector")
    kept, folders = checkpoint.load(path), given_folders(data)
    model = kept.model()
    found = None if detector is None else checkpoint.load_detector(detector)
    if found is not None and sure is not None:
        found = found.with_threshold(sure)
    detecting = None if found is None else Detector(
        found.detector(), found.threshold, kept.recipe.looks_closer, int8_detector
    )  # fmt: skip
    write = partial(
        export_bundle, model, name=name, recipe=kept.recipe.name,
        tokenizer=kept.text_tokenizer(), precision=precision, detector=detecting,
    )  # fmt: skip
    told = unmeasured(model)
    if folders:
        with progress_bars() as bars:
            scorer = scorer_of(kept, device, found)
            judge = Judge.of(kept.recipe, folders, bars, scorer.frame_size)
            others = judges_on(scorer, bars, unseen, unseen_test)
            if precision == "int8":
                size = kept.recipe.image_size
                shown = filming.sample_pictures(judge.data("val"), RANGED_PICTURES, size)
                write = partial(write, pictures=shown.numpy())
            if detecting is not None and detecting.int8:
                clips = _sample_clips(scorer, [judge, *others])
                write = partial(write, detector=detecting._replace(clips=clips))
            if precision == "fp32" and not int8_detector:
                told = measured(kept.recipe, scorer, judge, others)
            else:
                told = _measured_as_served(kept.recipe, partial(write, **told), judge, others)
    bundle = write(out, **told)
    console.print(f"{told['metrics']}\n{bundle}", soft_wrap=True)


@app.command()
def calibrate(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The new bundle's folder; may be the same.")],
    unseen: UnseenOption = [],  # noqa: B006
    unseen_test: UnseenTestOption = [],  # noqa: B006
) -> None:
    """Fuse and calibrate a bundle anew on other data, such as one's own shop's; its graphs stay.

    Takes the bundle alone, no checkpoint. As `export` does: on val, measured on test.
    """
    check_replaceable(out)
    scorer = BundleScorer(path)
    recipe = recipe_named(scorer.recipe).at_size(scorer.size)
    with progress_bars() as bars:
        judge = Judge.of(recipe, given_folders(data), bars, scorer.frame_size)
        others = judges_on(scorer, bars, unseen, unseen_test)
        told = measured(recipe, scorer, judge, others)
    bundle = recalibrate_bundle(path, out, **told)
    console.print(f"{told['metrics']}\n{bundle}", soft_wrap=True)


def _sample_clips(scorer: Scorer, judges: Sequence[Judge]) -> list[npt.NDArray[np.uint8]]:
    """Of each val, at the size that the detector looks at."""
    most, size = scorer.frames, scorer.frame_size
    samples = (
        filming.sample_clips(judge.data("val"), RANGED_CLIPS, most, size) for judge in judges
    )
    return [clip.numpy() for sample in samples for clip in sample]


def _measured_as_served(
    recipe: Recipe, write: Callable[[Path], Path], judge: Judge, unseen: Sequence[Judge]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return measured(recipe, BundleScorer(write(Path(folder) / "trial")), judge, unseen)


def measured(
    recipe: Recipe, scorer: Scorer, judge: Judge, unseen: Sequence[Judge] = ()
) -> dict[str, Any]:
    """Fusion, calibration and metrics of a bundle; val of `unseen` chooses fusion as well.
    Raises DataError."""
    val = judge.val_scores(scorer)
    hearings = HEARINGS if "right" in val else ("right",)
    tested = judge.scores(scorer, "test", hearings=hearings)
    test = tested["right"]
    fusion = fusion_search.best_fusion(
        val, *(other.val_scores(scorer, takes=1) for other in unseen)
    )
    results = summary(test, fusion)
    every = joined(val)
    fused = every.fused(fusion)
    calibration = fit_calibration(fused, every.truth)
    return {
        "fusion": _weights(fusion, reads=scorer.reads),
        "calibration": asdict(calibration),
        "metrics": {
            "protocol": f"{recipe.validate_on}, test: {protocol.TOLD[judged_layout(recipe)]}",
            "clips": len(test.truth),
            "products": test.largest_shop(),
            **{key: round(value, 4) for key, value in asdict(results["fused"]).items()},
            "coarse_r1": round(results["coarse"].r1, 4),
            **_unaided(tested, fusion),
            "confidence": confidence_shares(fused, calibration),
        },
    }


def _unaided(tested: Mapping[Hearing, Scores], fusion: Fusion) -> dict[str, float]:
    """R@1 of the test where what is heard is wrong, and where nothing is."""
    return {
        f"{hearing}_speech_r1": round(summary(scores, fusion)["fused"].r1, 4)
        for hearing, scores in tested.items()
        if hearing != "right"
    }


def unmeasured(model: Rice) -> dict[str, Any]:
    """The same where there is no data: RICE's cosines weigh as much as each other, SGMN ranks as in
    its paper without the decoder; text is left to break ties."""
    fusion = Fusion(1 / LOGIT_SCALE[model.decoder.head], TEXT_UNMEASURED)
    if isinstance(model, Sgmn):
        fusion = Fusion(0.0, TEXT_UNMEASURED)
    return {
        "fusion": _weights(fusion, reads=model.text is not None),
        "calibration": asdict(UNFITTED),
        "metrics": {"protocol": "none: exported without data"},
    }


def _weights(fusion: Fusion, *, reads: bool) -> dict[str, Any]:
    """As a manifest has it: with a weight of text where the model reads."""
    weights: dict[str, Any] = {"coarse": 1.0, "match": fusion.match}
    if not reads:
        return weights
    return weights | {"text": {"weight": fusion.text, "scale": fusion.scale, "doubt": fusion.doubt}}
